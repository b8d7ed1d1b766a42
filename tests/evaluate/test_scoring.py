import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lst.data.batch import pack_examples
from lst.errors import LstError
from lst.evaluate.items import ItemScores, credits, score_items
from lst.evaluate.kinds import BENCHMARKS
from lst.evaluate.scoring import MODES, Continuation, Mode, modalities, score_continuations
from lst.evaluate.store import ScoreStore
from lst.generate.layout import prompt_and_continuation, static_example
from lst.generate.session import Session, open_session
from lst.manifest import Manifest, iter_rows
from tests.evaluate.tiny import bench_rows, make_bench, make_model


@pytest.fixture(scope="module", params=["static", "none"])
def session(request: pytest.FixtureRequest, model: Manifest, base: Manifest) -> Session:
    return open_session((model if request.param == "static" else base).path)


def naive_logp(session: Session, item: Continuation) -> float:
    """Sum of log softmax of the full logits of one document, by a plain loop."""
    tokens, first = prompt_and_continuation(
        item.prompt, item.prompt_modality, item.ending, item.modality, session.vocabulary
    )
    example = static_example(tokens, session.vocabulary, session.patch_size)
    with torch.inference_mode():
        logits = session.model(pack_examples([[example]], session.vocabulary))[0].double()
    logp = torch.log_softmax(logits, dim=-1)
    return sum(float(logp[place - 1, tokens[place]]) for place in range(first, len(tokens)))


def continuations(session: Session, count: int = 6) -> list[Continuation]:
    rng = np.random.default_rng(0)
    made = []
    for k in range(count):
        for mode in MODES:
            source, target = modalities(mode)
            ids = {
                "speech": session.encode_units(rng.integers(0, 501, int(rng.integers(1, 40)))),
                "text": rng.integers(0, session.vocabulary.text_size, int(rng.integers(1, 12))),
            }
            prompt = tuple(ids[source].tolist()) if k else ()
            made.append(Continuation(prompt, source, tuple(ids[target].tolist()), target))
    return made


def test_scores_equal_a_plain_forward(session: Session) -> None:
    items = continuations(session)
    for item, score in zip(items, score_continuations(session, items), strict=True):
        assert score.logp == pytest.approx(naive_logp(session, item), abs=1e-4)
        assert score.tokens == len(item.ending)
        assert score.prompt_tokens == len(item.prompt)
        alone = Continuation((), item.prompt_modality, item.prompt, item.prompt_modality)
        assert score.prompt_logp == pytest.approx(naive_logp(session, alone) if item.prompt else 0.0, abs=1e-4)
        assert score.patches <= score.all_patches <= score.patches + score.prompt_tokens
        assert 1 <= score.patches <= score.tokens
        assert score.dropped == 0


@pytest.mark.parametrize("batch_tokens", [1, 100, 100_000])
def test_scores_do_not_depend_on_the_batch(session: Session, batch_tokens: int) -> None:
    items = continuations(session)
    reference = score_continuations(session, items)
    for one, other in zip(reference, score_continuations(session, items, batch_tokens=batch_tokens), strict=True):
        assert one.logp == pytest.approx(other.logp, abs=1e-4)
        assert (one.tokens, one.patches) == (other.tokens, other.patches)


def test_equal_continuations_are_scored_once(session: Session) -> None:
    items = continuations(session, 2)
    totals = []
    score_continuations(session, items * 3, progress=lambda done, total, unit: totals.append(total))
    assert totals[-1] == len(set(items))


def test_a_store_gives_the_same_scores_and_nothing_is_computed_twice(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lst.evaluate.scoring as scoring

    items = continuations(session, 3)
    plain = score_continuations(session, items, batch_tokens=100)
    with ScoreStore(tmp_path / "scores.sqlite") as store:
        assert score_continuations(session, items, batch_tokens=100, store=store) == plain
        batches = len(store)
        assert batches > 3
    monkeypatch.setattr(scoring, "_score_batch", lambda *_: pytest.fail("computed again"))
    with ScoreStore(tmp_path / "scores.sqlite") as store:
        assert score_continuations(session, items[::-1], batch_tokens=100, store=store) == plain[::-1]
        assert len(store) == batches


def test_a_killed_run_goes_on_from_its_last_batch(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lst.evaluate.scoring as scoring

    items = continuations(session, 3)
    plain = score_continuations(session, items, batch_tokens=100)
    compute = scoring._score_batch
    left = [2]

    def dies(*arguments: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return compute(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(scoring, "_score_batch", dies)
    with ScoreStore(tmp_path / "s.sqlite") as store, pytest.raises(KeyboardInterrupt):
        score_continuations(session, items, batch_tokens=100, store=store)
    made = []
    monkeypatch.setattr(scoring, "_score_batch", lambda *args: made.append(1) or compute(*args))
    with ScoreStore(tmp_path / "s.sqlite") as store:
        assert score_continuations(session, items, batch_tokens=100, store=store) == plain
        assert len(made) == len(store) - 2


def test_a_damaged_store_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.write_bytes(b"this is no database, whatever its name says " * 100)
    with ScoreStore(path) as store:
        assert store.get("key") is None
        store.put("key", [[1.5, 2]])
    with ScoreStore(path) as store:
        assert store.get("key") == [[1.5, 2]]


def test_probabilities_of_all_endings_add_up_to_one(session: Session) -> None:
    """One-token endings: the sum over the whole vocabulary is 1, so nothing is scored twice or left out."""
    prompt = tuple(session.encode_text("the cat").tolist())
    items = [Continuation(prompt, "text", (token,), "text") for token in range(session.vocabulary.size)]
    scores = score_continuations(session, items)
    assert sum(math.exp(score.logp) for score in scores) == pytest.approx(1.0, abs=1e-4)


def test_patches_of_an_ending_that_starts_inside_a_patch(model: Manifest) -> None:
    session = open_session(model.path)
    units = session.encode_units(np.arange(20))
    # 6 prompt units: patches 4 + 2; the ending's 7 units fill up the second patch (2), then 4, then 1.
    item = Continuation(tuple(units[:6].tolist()), "speech", tuple(units[6:13].tolist()), "speech")
    (score,) = score_continuations(session, [item])
    assert (score.tokens, score.patches) == (7, 3)


def test_a_prompt_longer_than_the_context_loses_its_front(tmp_path: Path, model: Manifest) -> None:
    short = open_session(make_model(tmp_path / "short", context=40).path)
    units = short.encode_units(np.arange(300) % 501)
    item = Continuation(tuple(units[:260].tolist()), "speech", tuple(units[260:280].tolist()), "speech")
    (score,) = score_continuations(short, [item])
    # <s> + 65 prompt patches + 5 of the ending = 71 > 40: 31 patches of 4 units go.
    assert score.dropped == 31 * 4
    kept = Continuation(item.prompt[31 * 4 :], "speech", item.ending, "speech")
    assert score.logp == pytest.approx(score_continuations(short, [kept])[0].logp, abs=1e-4)
    text = Continuation((1,) * 60, "text", (2,) * 10, "text")
    assert score_continuations(short, [text])[0].dropped == 31


def test_items_in_all_modes(session: Session, bench: Manifest) -> None:
    rows = list(iter_rows(bench))
    items = score_items(session, rows, MODES)
    assert [item.mode for item in items] == [mode for mode in MODES for _ in rows]
    for item in items:
        row = next(row for row in rows if row["id"] == item.id)
        spoken = item.mode.endswith("s")
        lengths = [len(choice) for choice in row["choices_units" if spoken else "choices_text"]]
        assert item.units.tolist() == (lengths if spoken else [0, 0])
        assert item.characters.tolist() == ([0, 0] if spoken else lengths)
        table = item.variants()
        assert all(kind.headline(item.mode) in table for kind in BENCHMARKS.values())
        same = item.mode in ("s-s", "t-t")
        assert ("whole_unit" in table, "whole_char" in table) == (spoken and same, not spoken and same)
        assert table["whole_token"] * item.whole_tokens == pytest.approx(item.whole)
        assert "whole_patch" in table
        assert np.allclose(table["pmi"], item.conditional - item.unconditional)
        if spoken:
            assert np.allclose(table["mean_unit"], table["mean_token"])


def test_the_unconditional_score_does_not_depend_on_the_prompt(session: Session, bench: Manifest) -> None:
    rows = list(iter_rows(bench))
    both = {mode: score_items(session, rows, [mode]) for mode in MODES}
    for left, right in (("s-s", "t-s"), ("t-t", "s-t")):
        for one, other in zip(both[left], both[right], strict=True):  # type: ignore[index]
            assert np.allclose(one.unconditional, other.unconditional, atol=1e-4)
            assert not np.allclose(one.conditional, other.conditional, atol=1e-3)


def test_endings_of_text_continue_the_text(session: Session) -> None:
    context, ending = "the cat ran over the", "red house and slowly"
    joined = session.encode_text(f"{context} {ending}").tolist()
    assert [*session.encode_text(context).tolist(), *session.encode_ending(context, ending).tolist()] == joined


def test_missing_modalities_leave_items_out(session: Session) -> None:
    text_only, speech_only, whole = bench_rows(3)
    text_only |= {"context_units": [], "choices_units": []}
    speech_only |= {"context_text": "", "choices_text": []}
    whole |= {"context_text": "", "context_units": [], "choices_text": []}
    rows = [text_only, speech_only, whole]
    found: dict[Mode, list[str]] = {mode: [item.id for item in score_items(session, rows, [mode])] for mode in MODES}
    assert found == {"s-s": ["item-1", "item-2"], "t-t": ["item-0"], "s-t": [], "t-s": []}
    (_, story) = score_items(session, rows, ["s-s"])
    assert np.isnan(story.unconditional).all()
    assert "pmi" not in story.variants()


def item_scores(label: int, conditional: list[float], unconditional: list[float], tokens: list[int]) -> ItemScores:
    n, none, given = np.array(tokens), 0 * np.array(tokens), np.array(conditional)
    alone = np.array(unconditional)
    return ItemScores("x", "g", "", "s-s", label, given, alone, given, n, n, none, n, n, n, none, n, 0)


def test_variants_can_disagree_and_ties_are_half() -> None:
    items = [
        item_scores(0, [-10.0, -6.0], [-20.0, -6.0], [10, 2]),  # sum: wrong; mean: right; pmi: right
        item_scores(1, [-4.0, -4.0], [-4.0, -4.0], [4, 4]),  # all level
    ]
    earned = credits(items)
    assert earned["sum"].tolist() == [0.0, 0.5]
    assert earned["mean_unit"].tolist() == [1.0, 0.5]
    assert earned["pmi"].tolist() == [1.0, 0.5]


def test_units_of_another_tokenizer_are_refused(tmp_path: Path, model: Manifest) -> None:
    from lst.evaluate.choices import evaluate_choices

    other = make_bench(tmp_path / "other", bench_rows(2), tokenizer="e" * 64)
    with pytest.raises(LstError, match=r"eeeeeeeeeeee.*tttttttttttt.*Make the units again"):
        evaluate_choices(open_session(model.path), other)


def test_a_model_over_unit_bpe_counts_units_behind_its_pieces(tmp_path: Path) -> None:
    session = open_session(make_model(tmp_path / "bpe", "bpe").path)
    units = np.repeat(np.arange(20), 3)
    ids = session.encode_units(units)
    assert len(ids) < len(units)
    assert session.decode_units(ids).tolist() == units.tolist()
    (row,) = bench_rows(1)
    row |= {"choices_units": [units.tolist(), units[::-1].tolist()]}
    (item,) = score_items(session, [row], ["s-s"])
    assert item.units.tolist() == [60, 60]
    assert item.tokens[0] == len(ids) == item.patches[0]
    table = item.variants()
    assert np.allclose(table["mean_unit"] * 60, table["sum"])
    assert not np.allclose(table["mean_unit"], table["mean_token"])


def test_a_directory_put_together_from_two_models_is_refused(tmp_path: Path) -> None:
    from lst.text.tokenizer import TextTokenizer
    from lst.text.train import train_tokenizer

    made = make_model(tmp_path / "model")
    other = TextTokenizer(train_tokenizer(["some other text of quite another kind"] * 20, 370))
    (tmp_path / "mixed").mkdir()
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "mixed" / name).write_bytes(made.file(name).read_bytes())
    (tmp_path / "mixed" / "tokenizer.model").write_bytes(other.model)
    with pytest.raises(LstError, match="has 370 pieces, its model 380"):
        open_session(tmp_path / "mixed")
