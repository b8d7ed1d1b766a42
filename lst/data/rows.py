"""Random access to the rows of Arrow shards, in constant memory: what is read are views into memory-mapped files.

A shard is checked as a whole when it is opened (a few vectorised comparisons), so that reading a row costs only its
slices and a damaged row stops the run with its shard and its id instead of producing nonsense. At most `open_shards`
shards stay open; `EpochOrder` visits the rows so that no more are needed at a time.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lst.data.interleaving import Utterance
from lst.data.patching import IntArray
from lst.data.random import Permutation
from lst.data.vocabulary import NUM_UNITS
from lst.errors import LstError
from lst.manifest import Manifest, read_table

if TYPE_CHECKING:
    import pyarrow as pa

Offsets = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TextDocument:
    """A row of `lst.text/1`: its id and its tokens `(m,)` int32."""

    id: str
    tokens: IntArray


def utterance_of(row: Mapping[str, Any]) -> Utterance:
    """A row of `lst.pairs/1` given as plain Python values (`lst.manifest.iter_rows`)."""

    def ints(values: Iterable[int]) -> IntArray:
        return np.array(list(values), dtype=np.int32)

    words, spans = row["words"], row["token_spans"]
    return Utterance(
        id=row["id"],
        units=np.array(row["units"], dtype=np.uint16),
        starts=ints(word["start"] for word in words),
        ends=ints(word["end"] for word in words),
        tokens=ints(row["tokens"]),
        token_starts=ints(span["start"] for span in spans),
        token_ends=ints(span["end"] for span in spans),
    )


class Shard(Protocol):
    """An open shard: rows by index, and which split each is in."""

    splits: NDArray[np.bool_]

    def __len__(self) -> int: ...

    def row(self, index: int) -> Any: ...


class PairShard:
    """One shard of `lst.pairs/1`. `row(i)` is an `Utterance` of views. Raises LstError on opening a corrupt one.

    `splits` (rows,) bool: whether the row is in the wanted split.
    """

    COLUMNS = ("id", "units", "words", "tokens", "token_spans", "split")

    def __init__(self, manifest: Manifest, shard: int, split: str | None, text_size: int, num_units: int) -> None:
        table = read_table(manifest, shard, self.COLUMNS)
        where = str(manifest.shard(shard))
        self._ids, self._id_offsets = _strings(table, "id")
        unit_offsets, (self._units,) = _lists(table, "units", where)
        word_offsets, (self._starts, self._ends) = _lists(table, "words", where, ("start", "end"))
        token_offsets, (self._tokens,) = _lists(table, "tokens", where)
        span_offsets, (self._token_starts, self._token_ends) = _lists(table, "token_spans", where, ("start", "end"))
        # One row of boundaries per utterance: a single small read gives all four ranges.
        self._bounds = np.stack((self._id_offsets, unit_offsets, word_offsets, token_offsets), axis=1)
        self._check(where, span_offsets, text_size, num_units)
        self.splits = _in_split(table, split)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def row(self, index: int) -> Utterance:
        (i0, u0, w0, t0), (i1, u1, w1, t1) = self._bounds[index : index + 2].tolist()
        return Utterance(
            id=str(self._ids[i0:i1], "utf-8"),
            units=self._units[u0:u1],
            starts=self._starts[w0:w1],
            ends=self._ends[w0:w1],
            tokens=self._tokens[t0:t1],
            token_starts=self._token_starts[w0:w1],
            token_ends=self._token_ends[w0:w1],
        )

    def _check(self, where: str, span_offsets: Offsets, text_size: int, num_units: int) -> None:
        unit_offsets, word_offsets, token_offsets = (self._bounds[:, column] for column in (1, 2, 3))
        frames, words, tokens = np.diff(unit_offsets), np.diff(word_offsets), np.diff(token_offsets)

        def fail(row: int, what: str) -> None:
            name = str(self._ids[self._id_offsets[row] : self._id_offsets[row + 1]], "utf-8", "replace")
            raise LstError(
                f"{where}, row {row} ({name}): {what}.", hint="The shard is corrupt: make it again with lst interleave."
            )

        def check(bad: NDArray[np.bool_], offsets: Offsets, what: str) -> None:
            if bad.any():
                fail(int(np.searchsorted(offsets, int(np.argmax(bad)), side="right")) - 1, what)

        different = span_offsets != word_offsets
        if different.any():
            fail(int(np.argmax(different)) - 1, "its numbers of words and of token spans differ")
        check(self._units >= num_units, unit_offsets, f"a unit lies outside 0..{num_units - 1}")
        check(
            (self._tokens < 0) | (self._tokens >= text_size), token_offsets, f"a token lies outside 0..{text_size - 1}"
        )
        row_of = np.repeat(np.arange(len(words)), words)
        bad = (self._starts < 0) | (self._ends <= self._starts) | (self._ends > frames[row_of])
        check(bad, word_offsets, "a word lies outside the utterance's units or is empty")
        inside = np.ones(len(self._starts), dtype=np.bool_)
        inside[word_offsets[:-1][words > 0]] = False  # whether a word has one before it in the row
        later = np.flatnonzero(inside)
        bad = np.zeros(len(self._starts), dtype=np.bool_)
        bad[later] = self._starts[later] < self._ends[later - 1]
        check(bad, word_offsets, "its words overlap or are out of order")
        bad = self._token_ends < self._token_starts
        bad[later] |= self._token_starts[later] != self._token_ends[later - 1]
        bad[~inside] |= self._token_starts[~inside] != 0
        last = word_offsets[1:][words > 0] - 1
        bad[last] |= self._token_ends[last] != tokens[words > 0]
        check(bad, word_offsets, "its token spans do not tile its tokens")


class TextShard:
    """One shard of `lst.text/1`. `row(i)` is a `TextDocument`. Raises LstError on opening a corrupt one."""

    COLUMNS = ("id", "tokens", "split")

    def __init__(self, manifest: Manifest, shard: int, split: str | None, text_size: int) -> None:
        table = read_table(manifest, shard, self.COLUMNS)
        where = str(manifest.shard(shard))
        self._ids, self._id_offsets = _strings(table, "id")
        self._offsets, (self._tokens,) = _lists(table, "tokens", where)
        bad = (self._tokens < 0) | (self._tokens >= text_size)
        if bad.any():
            row = int(np.searchsorted(self._offsets, int(np.argmax(bad)), side="right")) - 1
            raise LstError(
                f"{where}, row {row} ({self.row(row).id}): a token lies outside 0..{text_size - 1}.",
                hint="The shard is corrupt, or of another text tokenizer: make it again with lst tokenize-text.",
            )
        self.splits = _in_split(table, split)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def row(self, index: int) -> TextDocument:
        i0, i1 = self._id_offsets[index : index + 2].tolist()
        t0, t1 = self._offsets[index : index + 2].tolist()
        return TextDocument(str(self._ids[i0:i1], "utf-8"), self._tokens[t0:t1])


S = TypeVar("S", bound=Shard)


class Rows(Generic[S]):
    """The rows of a manifest by (shard, row), opening shards as needed and keeping `open_shards` of them open.

    `split`: "train", "valid", or None for all rows. Build one with `pair_rows` or `text_rows`.
    """

    def __init__(self, manifest: Manifest, split: str | None, open_shards: int, opener: Callable[[int], S]) -> None:
        self.manifest = manifest
        self.split = split
        self.open_shards = open_shards
        self.sizes = [entry.rows for entry in manifest.shards]
        self._opener = opener
        self._open: OrderedDict[int, S] = OrderedDict()

    def shard(self, index: int) -> S:
        """Shard `index`, opened and checked."""
        shard = self._open.get(index)
        if shard is not None:
            self._open.move_to_end(index)
            return shard
        shard = self._opener(index)
        if len(shard) != self.sizes[index]:
            raise LstError(
                f"{self.manifest.shard(index)} has {len(shard)} rows, its manifest says {self.sizes[index]}.",
                hint="The manifest is damaged: make it again.",
            )
        self._open[index] = shard
        if len(self._open) > self.open_shards:
            self._open.popitem(last=False)
        return shard


def pair_rows(
    manifest: Manifest,
    *,
    text_size: int,
    num_units: int = NUM_UNITS,
    split: str | None = "train",
    open_shards: int = 16,
) -> Rows[PairShard]:
    """Rows of a `lst.pairs` manifest, checked against the vocabulary."""
    return Rows(manifest, split, open_shards, lambda index: PairShard(manifest, index, split, text_size, num_units))


def text_rows(
    manifest: Manifest, *, text_size: int, split: str | None = "train", open_shards: int = 16
) -> Rows[TextShard]:
    """Rows of a `lst.text` manifest, checked against the vocabulary."""
    return Rows(manifest, split, open_shards, lambda index: TextShard(manifest, index, split, text_size))


class EpochOrder:
    """The shuffled order of all rows in one epoch, by position, in memory that depends on the number of shards only.

    The shards are permuted, taken `group` at a time, and the rows of a group are permuted among themselves: any
    position can be looked up at once, and no more than a group of shards is open.
    """

    def __init__(self, sizes: Sequence[int], *, group: int, seed: int, epoch: int, name: str) -> None:
        self._name = (name, seed, epoch)
        positions = np.arange(len(sizes), dtype=np.int64)
        self._shards = Permutation(len(sizes), *self._name, "shards")(positions) if len(sizes) else positions
        self._ends = np.cumsum(np.asarray(sizes, dtype=np.int64)[self._shards])
        self._group = group
        self._permutations: dict[int, Permutation] = {}
        self.total = int(self._ends[-1]) if len(sizes) else 0

    def __call__(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shards `(n,)` and rows within them `(n,)` of the positions start..stop-1."""
        positions = np.arange(start, min(stop, self.total), dtype=np.int64)
        ordinal = np.empty_like(positions)
        groups = np.searchsorted(self._ends, positions, side="right") // self._group
        for group in np.unique(groups).tolist():
            first = self._group * group
            low = int(self._ends[first - 1]) if first else 0
            high = int(self._ends[min(first + self._group, len(self._ends)) - 1])
            if group not in self._permutations:
                self._permutations = {group: Permutation(high - low, *self._name, "rows", group)}
            chosen = groups == group
            ordinal[chosen] = low + self._permutations[group](positions[chosen] - low)
        slot = np.searchsorted(self._ends, ordinal, side="right")
        before = np.where(slot > 0, self._ends[slot - 1], 0)
        return self._shards[slot], ordinal - before


def _column(table: "pa.Table", name: str) -> Any:
    chunks = table.column(name).combine_chunks()
    import pyarrow as pa

    return chunks.chunk(0) if isinstance(chunks, pa.ChunkedArray) and chunks.num_chunks else chunks


def _strings(table: "pa.Table", name: str) -> tuple[memoryview, Offsets]:
    """The bytes of a string column, and the offsets `(rows+1,)` into them."""
    array = _column(table, name)
    _, offsets, data = array.buffers()
    view = np.frombuffer(offsets, dtype=np.int32)[array.offset : array.offset + len(array) + 1]
    return memoryview(data if data is not None else b""), view


def _in_split(table: "pa.Table", split: str | None) -> NDArray[np.bool_]:
    if split is None:
        return np.ones(table.num_rows, dtype=np.bool_)
    import pyarrow.compute as pc

    return np.asarray(pc.equal(_column(table, "split"), split).to_numpy(zero_copy_only=False), dtype=np.bool_)


def _lists(
    table: "pa.Table", name: str, where: str, fields: tuple[str, ...] = ()
) -> tuple[Offsets, list[NDArray[Any]]]:
    """Offsets `(rows+1,)` of a list column, and its values (or the named fields of its structs), without copying."""
    import pyarrow as pa

    array = _column(table, name)
    try:
        values = [array.values.field(field) for field in fields] if fields else [array.values]
        return array.offsets.to_numpy(), [value.to_numpy(zero_copy_only=True) for value in values]
    except pa.ArrowInvalid as error:
        raise LstError(f"{where}: column {name} holds missing values.", hint="Make the shard again.") from error
