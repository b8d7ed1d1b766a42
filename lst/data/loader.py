"""Opening the training stream on manifests, and the batches that one process takes from it."""

import queue
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lst.data.interleaving import DocumentMaker, Task, Utterance
from lst.data.patching import Example, PatchingConfig
from lst.data.rows import pair_rows, text_rows
from lst.data.stream import DataConfig, Horizon, RowStream, Source
from lst.data.vocabulary import NUM_UNITS, Vocabulary
from lst.errors import LstError
from lst.manifest import Manifest, parse_schema, sha256_file, sha256_json

if TYPE_CHECKING:
    from lst.data.unit_bpe import UnitBpe
    from lst.text.tokenizer import TextTokenizer


def text_tokenizer_of(manifest: Manifest) -> "TextTokenizer":
    """The text tokenizer that travels with a `lst.pairs`, `lst.text` or `lst.model` manifest."""
    from lst.text.tokenizer import TOKENIZER_FILE, TextTokenizer

    return TextTokenizer.from_file(manifest.file(TOKENIZER_FILE))


def text_fingerprint(manifest: Manifest) -> str:
    """SHA-256 (hex) of the text tokenizer of a manifest: as it says, or of the tokenizer that it holds."""
    from lst.text.tokenizer import TOKENIZER_FILE

    if "text_tokenizer" in manifest.fingerprints:
        return manifest.fingerprints["text_tokenizer"]
    return sha256_file(manifest.file(TOKENIZER_FILE))


def vocabulary_of(manifest: Manifest, *, num_units: int = NUM_UNITS) -> Vocabulary:
    """The id space of data: the pieces of its text tokenizer, and `num_units` units."""
    return Vocabulary(text_tokenizer_of(manifest).vocab_size, num_units)


def open_stream(
    pairs: Manifest | None,
    text: Manifest | None,
    config: DataConfig,
    patching: PatchingConfig,
    *,
    task: Task = "interleaved",
    split: str | None = "train",
    epochs: int | None = None,
    horizon: Horizon | None = None,
    unit_bpe: "UnitBpe | None" = None,
    name_words: bool = False,
) -> RowStream:
    """The stream of packed rows over `pairs` (as `task`) and `text`, mixed as `config.mixture` says.

    `split`: "train", "valid", or None for all rows. `epochs`: end after so many passes over each source (None: never).
    `horizon`: the length of training, needed by the curriculum. `unit_bpe`: needed by the `bpe` baseline.
    `name_words`: patches of speech have word targets (`lst.data.word_targets`).
    Raises LstError if a manifest is missing or of another kind, or if their text tokenizers differ.
    """
    shares = {"speech": (pairs, config.mixture.speech), "text": (text, config.mixture.text)}
    used = {name: manifest for name, (manifest, share) in shares.items() if share > 0 and manifest is not None}
    for name, (manifest, share) in shares.items():
        if share > 0 and manifest is None:
            raise LstError(f"mixture.{name} is {share:g}, but there is no such data.", hint=f"Set mixture.{name} to 0.")
    for name, schema in (("speech", "lst.pairs"), ("text", "lst.text")):
        if name in used and parse_schema(used[name].schema)[0] != schema:
            raise LstError(f"{used[name].path} holds {used[name].schema}, but {schema} is needed here.")
    _check_same_tokenizer(used)
    tokenizer = text_tokenizer_of(next(iter(used.values())))
    vocabulary = Vocabulary(tokenizer.vocab_size, unit_bpe.size if unit_bpe else NUM_UNITS)
    along_pieces = patching.needs_alignment and patching.unit == "bpe"
    maker = DocumentMaker(
        vocabulary,
        patching,
        config.spans,
        pieces=config.pieces,
        noise=config.noise,
        seed=config.seed,
        limit=config.budget,
        piece_weights=piece_weights(tokenizer) if along_pieces else None,
        encode_units=unit_bpe.encode if unit_bpe else None,
        name_words=name_words,
    )
    text_size, shards = vocabulary.text_size, config.shuffle_shards
    sources: dict[str, Source[Any]] = {}
    for name, manifest in used.items():
        if name == "speech":
            speech = pair_rows(manifest, text_size=text_size, num_units=NUM_UNITS, split=split, open_shards=shards)
            sources[name] = Source(name, speech, maker, config, task, epochs)
        else:
            documents = text_rows(manifest, text_size=text_size, split=split, open_shards=shards)
            sources[name] = Source(name, documents, maker, config, None, epochs)
    identity = sha256_json(
        {
            "data": {name: manifest.id for name, manifest in used.items()},
            "config": config.as_json(),
            "patching": patching.as_json(),
            "task": task,
            "split": split,
            "units": unit_bpe.fingerprint if unit_bpe else None,
        }
    )
    return RowStream(config, patching, sources, identity, horizon)


def iter_utterances(pairs: Manifest, *, split: str | None = "valid") -> Iterator[Utterance]:
    """The utterances of a `lst.pairs` manifest in stored order: for evaluation, and for people to look at."""
    rows = pair_rows(pairs, text_size=text_tokenizer_of(pairs).vocab_size, split=split, open_shards=1)
    for index in range(len(rows.sizes)):
        shard = rows.shard(index)
        for row in np.flatnonzero(shard.splits).tolist():
            yield shard.row(row)


def piece_weights(tokenizer: "TextTokenizer") -> NDArray[np.float64]:
    """Characters `(vocab_size,)` behind each text piece (a byte counts as one): how long it takes to say, roughly."""
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    lengths = [1 if piece.startswith("<0x") else len(piece.replace("▁", "")) for piece in pieces]
    return np.array(lengths, dtype=np.float64)


def _check_same_tokenizer(used: Mapping[str, Manifest]) -> None:
    prints = {name: text_fingerprint(manifest) for name, manifest in used.items()}
    if len(set(prints.values())) > 1:
        named = " and ".join(f"{used[name].path} ({value[:12]})" for name, value in prints.items())
        raise LstError(
            f"The text tokenizers of {named} differ.",
            hint="Tokenize the text and interleave the speech with the same tokenizer.",
        )


class Loader:
    """The batches of one process: `next(loader)` is `rows` packed rows, each a list of `Example`.

    A batch of all processes is `rows * world` consecutive rows of the stream; row j of it belongs to rank j mod world.
    The last batch of a finite stream may be smaller, and empty for some ranks, so that all ranks count the same number
    of batches. `state_dict` may be saved by any rank and loaded by all, at any world size.
    """

    def __init__(self, stream: RowStream, *, rows: int, rank: int = 0, world: int = 1) -> None:
        if rows < 1 or not 0 <= rank < world:
            raise LstError(f"A batch of {rows} rows for rank {rank} of {world} processes cannot be.")
        self.stream = stream
        self._rows = rows
        self._rank = rank
        self._world = world

    def __iter__(self) -> Iterator[list[list[Example]]]:
        return self

    def __next__(self) -> list[list[Example]]:
        mine: list[list[Example]] = []
        for index in range(self._rows * self._world):
            plans = next(self.stream, None)
            if plans is None:
                if index == 0:
                    raise StopIteration
                break
            if index % self._world == self._rank:
                mine.append([plan.build() for plan in plans])
        return mine

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is between two batches; the same in every process."""
        return self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state saved at any world size."""
        self.stream.load_state_dict(state)


class Prefetcher:
    """Runs a `Loader` in a thread, `depth` batches ahead, so that planning overlaps with the accelerator's work.

    `state_dict` is that of the last batch given out, not of the loader, which is further on. Use as a context manager,
    or call `close`.
    """

    def __init__(self, loader: Loader, *, depth: int = 2) -> None:
        self._loader = loader
        self._state = loader.state_dict()
        self._depth = max(1, depth)
        self._queue: queue.Queue[tuple[list[list[Example]], dict[str, Any]] | BaseException] = queue.Queue(self._depth)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[list[list[Example]]]:
        return self

    def __next__(self) -> list[list[Example]]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="lst-loader", daemon=True)
            self._thread.start()
        item = self._queue.get()
        if isinstance(item, BaseException):
            self._put(item)  # asked again, it fails again
            raise item
        batch, self._state = item
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the stream was after the last batch given out."""
        return self._state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, dropping what was prefetched."""
        self.close()
        self._loader.load_state_dict(state)
        self._state = self._loader.state_dict()

    def close(self) -> None:
        """Stop the thread and drop what was prefetched."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._thread = None
        self._stop = threading.Event()
        self._queue = queue.Queue(self._depth)

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                batch = next(self._loader)
            except BaseException as error:
                self._put(error)
                return
            self._put((batch, self._loader.state_dict()))

    def _put(self, item: tuple[list[list[Example]], dict[str, Any]] | BaseException) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return
