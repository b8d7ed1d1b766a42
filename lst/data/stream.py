"""The training stream: from rows to packed rows, in constant memory, resumable anywhere.

1. Each source (interleaved speech, text) walks its rows epoch after epoch in a shuffled order that is computed, not
   stored (`EpochOrder`). Its state is three numbers: epoch, position, piece of a long text.
2. The mixture says which source gives the next document. The document is *planned*: a pure function of (seed, epoch,
   row id, P(u)) that yields its length (`DocumentMaker`). P(u) is taken when the document is admitted.
3. Planned documents wait in a pool, from which rows of exactly at most `budget` global units are packed (`Packer`).
4. Every process runs this same stream of *global* rows and builds only its own: row j of a batch belongs to rank
   j mod world. So the state is the same in all processes, and a run can go on with another world size.
5. The state is plain JSON: the sources' cursors, the names of the waiting documents (they are planned again on
   loading) and the counts. Whatever was read before is never read again, nor skipped.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import Field

from lst.config import StageConfig
from lst.data.interleaving import DocumentMaker, PieceConfig, Plan, SpanConfig, Task
from lst.data.mixture import Mixture, MixtureConfig
from lst.data.packing import Packer
from lst.data.patching import PatchingConfig
from lst.data.rows import EpochOrder, Rows, Shard
from lst.errors import LstError

S = TypeVar("S", bound=Shard)

_LOOKAHEAD = 1024  # positions whose rows are computed at once


class DataConfig(StageConfig):
    """What training reads and how it is laid out.

    Together with the manifests and the model's `PatchingConfig` it determines every packed row.
    """

    budget: int = Field(default=4096, ge=16, description="global units (patches and text tokens) per packed row")
    seed: int = Field(default=0, ge=0, description="of shuffling, interleaving and the choice of patching")
    mixture: MixtureConfig = Field(default=MixtureConfig(), description="shares of speech and text")
    spans: SpanConfig = Field(default=SpanConfig(), description="lengths of interleaved spans")
    pieces: PieceConfig | None = Field(default=None, description="asr, tts: cut some utterances; null: none")
    noise: float = Field(default=0.0, ge=0, lt=1, description="asr: share of the units heard that are disturbed")
    pool: int = Field(default=64, ge=1, description="documents that wait for packing, at least")
    shuffle_shards: int = Field(default=16, ge=1, description="shards whose rows are shuffled among each other")

    def as_json(self) -> dict[str, Any]:
        """The settings; `pieces` and `noise` are left out where there is none, as before there were these keys."""
        absent = {key for key in ("pieces", "noise") if not getattr(self, key)}
        return self.model_dump(mode="json", exclude=absent)


class Horizon(NamedTuple):
    """The length of training, over which the curriculum runs: packed rows, or original tokens, of all processes."""

    amount: int
    unit: Literal["rows", "tokens"] = "rows"


@dataclass(frozen=True, slots=True)
class Ticket:
    """The name of a document: enough to plan it again."""

    source: str
    epoch: int
    position: int
    piece: int
    probability: float


class Source(Generic[S]):
    """One source of documents: its rows in shuffled order, epoch after epoch. `task` None means text documents."""

    def __init__(
        self, name: str, rows: Rows[S], maker: DocumentMaker, config: DataConfig, task: Task | None, epochs: int | None
    ) -> None:
        self.name = name
        self.rows = rows
        self._maker = maker
        self._config = config
        self._task = task
        self._epochs = epochs
        self.epoch, self.position, self.piece = 0, 0, 0
        self._found_in_epoch = False
        self._order: tuple[int, EpochOrder] | None = None
        self._ahead: tuple[int, int, list[int], list[int]] = (-1, 0, [], [])

    def take(self, probability: float) -> tuple[Ticket, Plan] | None:
        """The next document, or None when the last epoch is over. Raises LstError if an epoch holds no document."""
        while self._epochs is None or self.epoch < self._epochs:
            order = self._epoch_order(self.epoch)
            while self.position < order.total:
                shard_index, index = self._locate(self.epoch, self.position)
                shard = self.rows.shard(shard_index)
                if shard.splits[index]:
                    row = shard.row(index)
                    pieces = 1 if self._task else self._maker.pieces_of_text(len(row.tokens))
                    if self.piece < pieces:
                        ticket = Ticket(self.name, self.epoch, self.position, self.piece, probability)
                        self.piece += 1
                        if self.piece == pieces:
                            self.position, self.piece = self.position + 1, 0
                        self._found_in_epoch = True
                        return ticket, self._plan(row, ticket)
                self.position, self.piece = self.position + 1, 0
            if not self._found_in_epoch:
                break
            self.epoch, self.position, self.piece = self.epoch + 1, 0, 0
            self._found_in_epoch = False
        if self._epochs is not None and self.epoch >= self._epochs:
            return None
        what = f"in split {self.rows.split!r}" if self.rows.split else "at all"
        raise LstError(
            f"{self.rows.manifest.path} has no rows {what} that could be read.",
            hint="Add data, or change valid_fraction of the stage that made it.",
        )

    def plan(self, ticket: Ticket) -> Plan:
        """Plan a document again from its ticket."""
        order = self._epoch_order(ticket.epoch)
        (shard,), (index,) = (part.tolist() for part in order(ticket.position, ticket.position + 1))
        return self._plan(self.rows.shard(shard).row(index), ticket)

    def _plan(self, row: Any, ticket: Ticket) -> Plan:
        if self._task is None:
            return self._maker.text(row.id, row.tokens, ticket.piece)
        return self._maker.utterance(self._task, row, epoch=ticket.epoch, aligned_probability=ticket.probability)

    def _epoch_order(self, epoch: int) -> EpochOrder:
        if self._order is None or self._order[0] != epoch:
            group, seed = self._config.shuffle_shards, self._config.seed
            self._order = epoch, EpochOrder(self.rows.sizes, group=group, seed=seed, epoch=epoch, name=self.name)
        return self._order[1]

    def _locate(self, epoch: int, position: int) -> tuple[int, int]:
        known_epoch, start, shards, rows = self._ahead
        if known_epoch != epoch or not start <= position < start + len(shards):
            start = position
            shards, rows = (part.tolist() for part in self._epoch_order(epoch)(position, position + _LOOKAHEAD))
            self._ahead = epoch, start, shards, rows
        return shards[position - start], rows[position - start]

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position, "piece": self.piece, "found": self._found_in_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.position, self.piece = int(state["epoch"]), int(state["position"]), int(state["piece"])
        self._found_in_epoch = bool(state["found"])


class RowStream:
    """Packed rows of all processes, in order: `next(stream)` is a list of planned documents.

    Made by `lst.data.loader.open_stream`. `identity` names data and settings: a saved state fits only those.
    """

    def __init__(
        self,
        config: DataConfig,
        patching: PatchingConfig,
        sources: Mapping[str, Source[Any]],
        identity: str,
        horizon: Horizon | None = None,
    ) -> None:
        self.config = config
        self.patching = patching
        self.sources = dict(sources)
        self.identity = identity
        self.horizon = horizon
        shares = {"speech": config.mixture.speech, "text": config.mixture.text}
        self.mixture = Mixture({name: shares[name] for name in self.sources})
        self.rows = 0
        """Packed rows given out so far, by all processes together."""
        self._packer: Packer[tuple[Ticket, Plan]] = Packer(config.budget, config.pool)
        self._open = list(self.sources)
        if patching.mode == "curriculum" and horizon is None:
            raise LstError("The curriculum needs to know how long training is.", hint="Give a number of steps.")

    @property
    def progress(self) -> float:
        """u: the share of training that is done, 0 to 1."""
        if self.horizon is None:
            return 0.0
        tokens = self.horizon.unit == "tokens"
        done = sum(tally.original for tally in self.mixture.read.values()) if tokens else self.rows
        return min(1.0, done / max(1, self.horizon.amount))

    @property
    def packing_efficiency(self) -> float:
        """Global units in the rows so far, relative to their budget."""
        used = sum(tally.patches for tally in self.mixture.read.values())
        return used / max(1, self.rows * self.config.budget)

    def __iter__(self) -> Iterator[list[Plan]]:
        return self

    def __next__(self) -> list[Plan]:
        probability = self.patching.aligned_probability(self.progress)
        while self._open and self._packer.hungry:
            name = self.mixture.choose(self._open)
            taken = self.sources[name].take(probability)
            if taken is None:
                self._open.remove(name)
                continue
            self.mixture.admit(name, taken[1])
            self._packer.push(taken, taken[1].global_units)
        if not self._packer.waiting:
            raise StopIteration
        row = self._packer.pop()
        for ticket, plan in row:
            self.mixture.read[ticket.source].add(plan)
        self.rows += 1
        return [plan for _, plan in row]

    def report(self) -> dict[str, Any]:
        """What was read so far: `Mixture.report` with the rows, the epochs and the packing efficiency."""
        return {
            **self.mixture.report(),
            "rows": self.rows,
            "packing_efficiency": self.packing_efficiency,
            "epochs": {name: source.epoch for name, source in self.sources.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, as plain JSON; the same in every process."""
        waiting = [
            [ticket.source, ticket.epoch, ticket.position, ticket.piece, ticket.probability]
            for ticket, _ in self._packer.waiting
        ]
        return {
            "version": 1,
            "identity": self.identity,
            "rows": self.rows,
            "sources": {name: source.state_dict() for name, source in self.sources.items()},
            "waiting": waiting,
            "mixture": self.mixture.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. Raises LstError if it is of another version, other data or other settings."""
        if state.get("version") != 1 or state.get("identity") != self.identity:
            raise LstError(
                "The saved position belongs to other data, or to other settings of the data.",
                hint="Resume with the data and the settings of the first run, or start a new run.",
            )
        for name, source in self.sources.items():
            source.load_state_dict(state["sources"][name])
        self.mixture.load_state_dict(state["mixture"])
        self.rows = int(state["rows"])
        self._open = list(self.sources)
        self._packer = Packer(self.config.budget, self.config.pool)
        for item in state["waiting"]:
            ticket = Ticket(str(item[0]), int(item[1]), int(item[2]), int(item[3]), float(item[4]))
            plan = self.sources[ticket.source].plan(ticket)
            self._packer.push((ticket, plan), plan.global_units)
