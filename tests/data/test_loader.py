"""The stream of rows: every row once per epoch, the same for every world size, and exact when resumed anywhere."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lst.data.interleaving import SpanConfig
from lst.data.loader import Loader, Prefetcher, iter_utterances, open_stream, text_tokenizer_of, vocabulary_of
from lst.data.mixture import Mixture, MixtureConfig
from lst.data.patching import Example, PatchingConfig
from lst.data.rows import EpochOrder, pair_rows, utterance_of
from lst.data.stage import InterleaveConfig, interleave
from lst.data.stream import DataConfig, Horizon, RowStream
from lst.data.unit_bpe import train_unit_bpe
from lst.errors import LstError
from lst.manifest import Manifest, iter_rows
from tests.data.synthetic import make_aligned, make_text

Data = tuple[Manifest, Manifest]
CONFIG = DataConfig(budget=256, pool=16, shuffle_shards=2)
CURRICULUM = PatchingConfig(mode="curriculum")


def stream(
    data: Data, config: DataConfig = CONFIG, patching: PatchingConfig | None = None, **options: object
) -> RowStream:
    pairs, text = data
    patching = patching or PatchingConfig()
    speech = pairs if config.mixture.speech else None
    return open_stream(speech, text if config.mixture.text else None, config, patching, **options)


def only(source: str, **options: object) -> DataConfig:
    shares = {"speech": 0.0, "text": 0.0, source: 1.0}
    return DataConfig(budget=256, pool=16, shuffle_shards=2, mixture=MixtureConfig(**shares), **options)


def digest(batch: list[list[Example]]) -> list[list[tuple[object, ...]]]:
    """Everything in a batch, comparable."""
    parts = ("tokens", "patch_lengths", "closed", "loss_mask")
    return [[(e.id, *(getattr(e, part).tobytes() for part in parts)) for e in row] for row in batch]


def take(loader: Loader | Prefetcher, count: int) -> list[list[list[tuple[object, ...]]]]:
    return [digest(next(loader)) for _ in range(count)]


@pytest.mark.parametrize("mode", ["none", "static", "aligned", "mixed"])
def test_every_row_once_per_epoch(data: Data, mode: str) -> None:
    patching = PatchingConfig(mode=mode)
    for source, manifest in zip(("speech", "text"), data):
        rows = [row for batch in Loader(stream(data, only(source), patching, epochs=2), rows=3) for row in batch]
        assert all(sum(example.global_units for example in row) <= CONFIG.budget for row in rows)
        train = [row["id"] for row in iter_rows(manifest, ["id", "split"]) if row["split"] == "train"]
        counts = Counter(example.id for row in rows for example in row)
        if source == "text":  # long documents come in pieces
            pieces = Counter(
                example.id for row in rows for example in row if example.tokens[-1] == vocabulary_of(manifest).end
            )
            counts = pieces
        assert counts == dict.fromkeys(train, 2)


def test_epochs_differ_and_are_shuffled(data: Data) -> None:
    ids = [e.id for batch in Loader(stream(data, only("speech"), epochs=2), rows=1) for row in batch for e in row]
    half = len(ids) // 2
    assert ids[:half] != ids[half:]
    assert ids[:half] != sorted(ids[:half])


def test_splits_share_no_row(data: Data) -> None:
    parts = [{p.id for row in stream(data, epochs=1, split=split) for p in row} for split in ("train", "valid", None)]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == parts[2]
    assert len(parts[2]) == sum(manifest.rows for manifest in data)
    assert len(list(iter_utterances(data[0], split="valid"))) == data[0].totals["valid_rows"]


@settings(max_examples=20)
@given(before=st.integers(0, 12), worlds=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_resume_is_exact_at_any_world_size(data: Data, before: int, worlds: tuple[int, int]) -> None:
    horizon = Horizon(40)
    whole = take(Loader(stream(data, patching=CURRICULUM, horizon=horizon), rows=1), 40)
    expected = [rows[0] for rows in whole]
    first, second = worlds

    def play(world: int, batches: int, state: dict | None) -> tuple[list[object], list[str]]:
        loaders = [
            Loader(stream(data, patching=CURRICULUM, horizon=horizon), rows=1, rank=rank, world=world)
            for rank in range(world)
        ]
        rows: list[object] = []
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(state)
        for _ in range(batches):
            rows += [row for loader in loaders for row in digest(next(loader))]
        return rows, [json.dumps(loader.state_dict()) for loader in loaders]

    old, states = play(first, before // first, None)
    assert len(set(states)) == 1  # any process may save it
    new, _ = play(second, 4, json.loads(states[0]))
    assert old + new == expected[: len(old) + len(new)]


def test_resume_inside_a_long_text(tmp_path: Path) -> None:
    text = make_text(tmp_path / "text", 4, shards=1, longest=400)
    config = DataConfig(budget=32, pool=1, mixture=MixtureConfig(speech=0, text=1))
    whole = take(Loader(open_stream(None, text, config, PatchingConfig(), epochs=2), rows=1), 40)
    for before in (3, 7, 20):
        loader = Loader(open_stream(None, text, config, PatchingConfig(), epochs=2), rows=1)
        take(loader, before)
        state = json.loads(json.dumps(loader.state_dict()))
        resumed = Loader(open_stream(None, text, config, PatchingConfig(), epochs=2), rows=1)
        resumed.load_state_dict(state)
        assert take(resumed, 40 - before) == whole[before:]
        assert resumed.stream.report() != loader.stream.report()


def test_a_finite_stream_ends_for_all_ranks_together(data: Data) -> None:
    loaders = [Loader(stream(data, only("speech"), epochs=1), rows=2, rank=rank, world=3) for rank in range(3)]
    batches = [list(loader) for loader in loaders]
    assert len({len(part) for part in batches}) == 1
    alone = [digest([row])[0] for batch in Loader(stream(data, only("speech"), epochs=1), rows=2) for row in batch]
    rows = []
    for parts in zip(*batches):
        for index in range(2):
            rows += [digest([part[index]])[0] for part in parts if index < len(part)]
    assert rows == alone
    for loader in loaders:  # a finished stream stays finished
        assert next(loader, None) is None


def test_the_mixture_is_kept_and_measured(data: Data) -> None:
    for speech, text in ((1, 2), (1, 1), (1, 3)):
        config = DataConfig(budget=256, pool=16, mixture=MixtureConfig(speech=speech, text=text))
        source = stream(data, config)
        units = text_tokens = patches = 0
        vocabulary = vocabulary_of(data[0])
        for batch in (next(loader) for loader in [Loader(source, rows=1)] for _ in range(80)):
            for example in batch[0]:
                units += int(vocabulary.is_unit(example.tokens).sum())
                text_tokens += int(vocabulary.is_text(example.tokens).sum())
                patches += example.global_units
        report = source.report()
        assert report["sources"]["speech"]["share"] == pytest.approx(speech / (speech + text), abs=0.03)
        assert (report["units"], report["text_tokens"], report["global_units"]) == (units, text_tokens, patches)
        assert report["packing_efficiency"] == pytest.approx(patches / (80 * 256))
        assert report["packing_efficiency"] >= 0.97
        assert report["units_per_patch"] == pytest.approx(4, abs=0.3)
        assert 0.5 < report["sequence_ratio"] < 1
        assert report["sources"]["speech"]["truncated"] == 0


def test_mixture_chooses_who_lags() -> None:
    mixture = Mixture({"speech": 1.0, "text": 2.0, "nothing": 0.0})
    assert list(mixture.shares) == ["speech", "text"]
    mixture.admitted.update(speech=10, text=19)
    assert mixture.choose(["speech", "text"]) == "text"
    mixture.admitted.update(text=21)
    assert mixture.choose(["speech", "text"]) == "speech"
    assert mixture.choose(["text"]) == "text"


def test_the_curriculum_goes_from_words_to_static(data: Data) -> None:
    """P(u) in expectation: the share of aligned documents, told by patches of other lengths than p inside a span."""
    config = only("speech", spans=SpanConfig(speech_only=1.0))
    source = stream(data, config, CURRICULUM, horizon=Horizon(240))
    aligned = []
    for row in (next(source) for _ in range(240)):
        closed = [plan.build().closed for plan in row]
        aligned.append(np.mean([not part[1] for part in closed]))  # the first speech patch of a document
    thirds = [float(np.mean(aligned[start + 10 : start + 70])) for start in (0, 80, 160)]
    assert thirds[0] == 1.0
    assert thirds[1] == pytest.approx(0.5, abs=0.12)
    assert thirds[2] == 0.0
    assert source.progress == 1.0


def test_progress_can_be_counted_in_tokens(data: Data) -> None:
    source = stream(data, patching=CURRICULUM, horizon=Horizon(5000, "tokens"))
    next(source)
    assert source.progress == pytest.approx(source.report()["original_tokens"] / 5000)


def test_tasks(data: Data) -> None:
    vocabulary = vocabulary_of(data[0])
    for task, marker in (("asr", vocabulary.asr), ("tts", vocabulary.tts), ("speech", vocabulary.end)):
        plans = next(stream(data, only("speech"), task=task, epochs=1))
        assert all(marker in plan.build().tokens for plan in plans)


def test_the_bpe_baseline_reads_the_same_rows(data: Data) -> None:
    bpe = train_unit_bpe((row.units for row in iter_utterances(data[0], split="train")), size=700)
    source = stream(data, patching=PatchingConfig(mode="bpe"), unit_bpe=bpe)
    rows = [next(source) for _ in range(40)]
    assert source.report()["sources"]["speech"]["share"] == pytest.approx(1 / 3, abs=0.03)
    limit = 380 + 8 + bpe.size
    assert all(plan.build().tokens.max() < limit for row in rows for plan in row)


def test_batches_collate(data: Data) -> None:
    from lst.data.batch import pack_examples

    source = stream(data)
    batch = pack_examples(next(Loader(source, rows=2)), vocabulary_of(data[0]))
    assert batch.global_units == source.report()["global_units"]


def test_prefetching_changes_nothing(data: Data) -> None:
    plain = Loader(stream(data), rows=2)
    expected = take(plain, 6)
    with Prefetcher(Loader(stream(data), rows=2), depth=3) as ahead:
        assert take(ahead, 2) == expected[:2]
        state = ahead.state_dict()
        assert take(ahead, 2) == expected[2:4]
        ahead.load_state_dict(state)
        assert ahead.state_dict() == state
        assert take(ahead, 4) == expected[2:]
    finite = Prefetcher(Loader(stream(data, only("speech"), epochs=1), rows=4))
    assert digest([row for batch in finite for row in batch]) == digest(
        [row for batch in Loader(stream(data, only("speech"), epochs=1), rows=4) for row in batch]
    )
    with pytest.raises(StopIteration):
        next(finite)
    finite.close()


@given(sizes=st.lists(st.integers(0, 30), max_size=12), group=st.integers(1, 5), seed=st.integers(0, 99))
def test_epoch_order_visits_every_row_once(sizes: list[int], group: int, seed: int) -> None:
    order = EpochOrder(sizes, group=group, seed=seed, epoch=0, name="x")
    assert order.total == sum(sizes)
    shards, rows = order(0, order.total)
    assert sorted(zip(shards.tolist(), rows.tolist())) == [(s, r) for s, size in enumerate(sizes) for r in range(size)]
    for start in range(0, order.total, 7):  # any window is looked up alone
        part = order(start, start + 7)
        assert part[0].tolist() == shards[start : start + 7].tolist()
        assert part[1].tolist() == rows[start : start + 7].tolist()
    # No more than a group of shards is in use at a time.
    places = [np.flatnonzero(shards == shard)[[0, -1]] for shard in np.unique(shards)]
    assert all(sum(first <= i <= last for first, last in places) <= group for i in range(order.total))


def test_only_a_group_of_shards_is_open(tmp_path: Path) -> None:
    text = make_text(tmp_path / "text", 40, shards=2)
    pairs = interleave(make_aligned(tmp_path / "aligned", 60, shards=12), text, tmp_path / "pairs", InterleaveConfig())
    source = open_stream(pairs, None, only("speech"), PatchingConfig(), epochs=1)
    rows = source.sources["speech"].rows
    opened = []
    opener = rows._opener
    rows._opener = lambda index: opened.append(index) or opener(index)  # type: ignore[func-returns-value]
    for _ in source:
        assert len(rows._open) <= 2
    assert sorted(opened) == list(range(12))  # each just once


def test_rows_as_arrays_and_as_values_agree(data: Data) -> None:
    pairs = data[0]
    for slow, fast in zip(iter_rows(pairs), iter_utterances(pairs, split=None)):
        plain = utterance_of(slow)
        assert plain.id == fast.id
        for part in ("units", "starts", "ends", "tokens", "token_starts", "token_ends"):
            np.testing.assert_array_equal(getattr(plain, part), getattr(fast, part))
            assert getattr(plain, part).dtype == getattr(fast, part).dtype


def test_a_state_of_other_settings_is_refused(data: Data) -> None:
    state = stream(data).state_dict()
    for other in (
        stream(data, DataConfig(budget=128, pool=16, shuffle_shards=2)),
        stream(data, patching=PatchingConfig(size=6)),
        stream(data, split="valid"),
    ):
        with pytest.raises(LstError, match="other data, or to other settings"):
            other.load_state_dict(state)
    with pytest.raises(LstError):
        stream(data).load_state_dict({**state, "version": 2})


def test_impossible_streams_are_refused(data: Data, tmp_path: Path) -> None:
    pairs, text = data
    with pytest.raises(LstError, match=r"mixture\.text is 2"):
        open_stream(pairs, None, CONFIG, PatchingConfig())
    with pytest.raises(LstError, match=r"lst\.pairs is needed"):
        open_stream(text, pairs, CONFIG, PatchingConfig())
    with pytest.raises(LstError, match="how long training is"):
        open_stream(pairs, text, CONFIG, CURRICULUM)
    with pytest.raises(LstError, match="rank 2 of 2"):
        Loader(stream(data), rows=1, rank=2, world=2)
    small = make_text(tmp_path / "text", 3)
    with pytest.raises(LstError, match="no rows in split 'valid'"):
        next(open_stream(None, small, only("text"), PatchingConfig(), split="valid"))


def test_text_tokenizers_must_agree(data: Data, tmp_path: Path) -> None:
    from dataclasses import replace

    pairs, text = data
    other = replace(text, fingerprints={"text_tokenizer": "f" * 64})
    with pytest.raises(LstError, match=r"text tokenizers of .* differ"):
        open_stream(pairs, other, CONFIG, PatchingConfig())
    assert text_tokenizer_of(pairs).fingerprint == text.fingerprints["text_tokenizer"]
    open_stream(pairs, replace(text, fingerprints={}), CONFIG, PatchingConfig())  # told by the file itself


def test_rows_of_a_manifest_that_lies(data: Data) -> None:
    from dataclasses import replace

    pairs = data[0]
    shards = [replace(pairs.shards[0], rows=pairs.shards[0].rows + 1), *pairs.shards[1:]]
    rows = pair_rows(replace(pairs, shards=shards), text_size=380)
    with pytest.raises(LstError, match="its manifest says"):
        rows.shard(0)
