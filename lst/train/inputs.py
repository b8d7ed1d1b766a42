"""What pre-training and fine-tuning read: the training stream and the validation sets of a job, opened per process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lst.data.interleaving import PieceConfig, SpanConfig, Task
from lst.data.loader import open_stream, vocabulary_of
from lst.data.mixture import MixtureConfig
from lst.data.patching import PatchingConfig
from lst.data.stream import DataConfig, Horizon, RowStream
from lst.data.vocabulary import Vocabulary
from lst.errors import LstError
from lst.manifest import Manifest
from lst.train.config import TrainerConfig
from lst.train.stream import BudgetedStream, steps_in_budget, valid_batches

if TYPE_CHECKING:
    from lst.data.batch import PackedBatch
    from lst.data.unit_bpe import UnitBpe

PROBE_ROWS = 16
"""Rows from which the length of a run with a FLOPs budget is estimated, for the curriculum."""


@dataclass(frozen=True)
class DataSpec:
    """The data of a run: manifests, how they are laid out, and the vocabulary they fill."""

    pairs: Manifest | None
    text: Manifest | None
    config: TrainerConfig
    patching: PatchingConfig
    mixture: MixtureConfig
    vocabulary: Vocabulary
    spans: SpanConfig = field(default_factory=SpanConfig)
    pieces: PieceConfig | None = None
    noise: float = 0.0
    task: Task = "interleaved"
    unit_bpe: "UnitBpe | None" = None
    name_words: bool = False

    def stream(self, horizon: Horizon | None) -> RowStream:
        """Packed training rows, without end."""
        return open_stream(
            self.pairs,
            self.text,
            self._layout(self.mixture).model_copy(update={"pieces": self.pieces, "noise": self.noise}),
            self.patching,
            task=self.task,
            horizon=horizon,
            unit_bpe=self.unit_bpe,
            name_words=self.name_words,
        )

    def open(self, count_flops: Callable[["PackedBatch"], float]) -> Callable[[int, int], BudgetedStream]:
        """How a process (rank, world) opens its share of the training steps.

        Raises LstError if the data's vocabulary is not the model's, or if aligned patches or word targets are asked for
        and no word of the data is aligned.
        """
        self._check()
        horizon = self._horizon(count_flops)

        def opener(rank: int, world: int) -> BudgetedStream:
            batch, budget = self.config.batch, self.config.budget
            return BudgetedStream(self.stream(horizon), self.vocabulary, batch, budget, rank, world)

        return opener

    def _check(self) -> None:
        for manifest in (self.pairs, self.text):
            pieces = None if manifest is None else vocabulary_of(manifest).text_size
            if manifest is not None and pieces != self.vocabulary.text_size:
                raise LstError(
                    f"{manifest.path} has {pieces} text pieces, the model's head {self.vocabulary.text_size}.",
                    hint="Make the data with the model's text tokenizer.",
                )
        if self.pairs is None or self.pairs.totals.get("words") != 0:
            return
        if self.patching.needs_alignment:
            raise LstError(
                f"patching.mode is {self.patching.mode}, but no word of {self.pairs.path} is aligned.",
                hint="Align the speech (lst align), or use static patches.",
            )
        if self.name_words:
            raise LstError(
                f"words asks for the words of {self.pairs.path}, of which none is aligned.",
                hint="Align the speech (lst align), or set words to null.",
            )

    def _horizon(self, count_flops: Callable[["PackedBatch"], float]) -> Horizon:
        """How long training is, for the curriculum: exactly, or for a FLOPs budget from a few rows."""
        budget, batch = self.config.budget, self.config.batch
        steps = steps_in_budget(budget, batch)
        if steps is not None:
            return Horizon(steps * batch.rows)
        if budget.kind == "data":
            return Horizon(round(budget.amount), "tokens")
        probe = self.stream(Horizon(1))
        flops = sum(count_flops(part) for part in valid_batches(probe, PROBE_ROWS, 1, self.vocabulary, 0, 1))
        return Horizon(max(1, round(budget.amount / max(1.0, flops / PROBE_ROWS))))

    def valid(self, rank: int, world: int, sets: Sequence[str]) -> Mapping[str, Sequence["PackedBatch"]]:
        """This process's share of the validation sets `sets` that have rows.

        `text` is made of held-out documents; every other set of held-out utterances, laid out as that task.
        """
        found = {}
        per_batch = max(1, self.config.batch.rows // (self.config.batch.accumulate * world))
        for name in sets:
            manifest = self.text if name == "text" else self.pairs
            if manifest is None or not has_valid_rows(manifest):
                continue
            speech = name != "text"
            rows = open_stream(
                manifest if speech else None,
                None if speech else manifest,
                self._layout(MixtureConfig(speech=float(speech), text=float(not speech))),
                validation_patching(self.patching),
                task=name if speech else "interleaved",  # type: ignore[arg-type]
                split="valid",
                epochs=1,
                unit_bpe=self.unit_bpe,
            )
            found[name] = valid_batches(rows, self.config.valid_rows, per_batch, self.vocabulary, rank, world)
        return found

    def _layout(self, mixture: MixtureConfig) -> DataConfig:
        return DataConfig(
            budget=self.config.batch.sequence_units, seed=self.config.seed, mixture=mixture, spans=self.spans
        )


def validation_patching(patching: PatchingConfig) -> PatchingConfig:
    """As at inference: static patches, unless the model knows aligned ones only or none at all."""
    if patching.mode in ("mixed", "curriculum"):
        return patching.model_copy(update={"mode": "static"})
    return patching


def has_valid_rows(manifest: Manifest) -> bool:
    """Whether any row of a `lst.pairs` or `lst.text` manifest is in the split `valid`."""
    from lst.manifest import read_table

    for shard in range(len(manifest.shards)):
        column = read_table(manifest, shard, ["split"]).column("split")
        if any(chunk.to_numpy(zero_copy_only=False).tolist().count("valid") for chunk in column.chunks):
            return True
    return False


def check_fingerprints(model: Manifest, pairs: Manifest) -> None:
    """Raise LstError unless units and text of `pairs` come from the tokenizers `model` was trained with."""
    from lst.assets import check_units

    theirs, ours = (
        (m.fingerprints.get("tokenizer", ""), m.fingerprints.get("text_tokenizer", "")) for m in (pairs, model)
    )
    check_units(theirs[0], ours[0], whose=f"The data {pairs.path}", model=str(model.path), told_by=(pairs, model))
    if theirs[1] != ours[1]:
        raise LstError(
            f"{pairs.path} was made with another text tokenizer ({theirs[1][:12] or 'none'}) than the model "
            f"{model.path} ({ours[1][:12] or 'none'}).",
            hint="Make the data again with the model's text tokenizer.",
        )
