"""Held-out losses: bits per second of speech and per text token, with static patches as at inference.

    speech        <s> units <end>
    transcript    <t> text <end>          the same utterances, as text
    interleaved   <s> units <t> text ...  the same utterances, cut as in training (one draw, fixed by the seed)
    text          <t> text <end>          held-out documents of the text manifest

Only units count for speech and only text pieces for text, `<end>` and markers for neither. A second of speech is 25
units: with a unit BPE, the units behind its pieces. Interleaved documents give the four directions, by whether the
document held the other modality before the target.
"""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lst.config import StageConfig
from lst.constants import FRAME_RATE
from lst.data.interleaving import SpanConfig
from lst.data.patching import PatchingConfig
from lst.errors import LstError
from lst.generate.session import Session
from lst.manifest import Manifest, Progress, read_table

if TYPE_CHECKING:
    from lst.data.interleaving import Plan

Kind = Literal["speech", "transcript", "interleaved", "text"]
KINDS: tuple[Kind, ...] = ("speech", "transcript", "interleaved", "text")
DIRECTIONS = {
    "speech → speech": "speech_to_speech_bits_per_second",
    "text → text": "text_to_text_bits_per_token",
    "text → speech": "text_to_speech_bits_per_second",
    "speech → text": "speech_to_text_bits_per_token",
}
"""Of a set in which both modalities occur in one document: what the document held before → the target."""


class LossesConfig(StageConfig):
    """How much is measured, and how the interleaved documents are cut."""

    max_rows: int = Field(64, ge=1, description="packed rows per kind of document, each of `budget` global units")
    budget: int = Field(1024, ge=64, description="global units per row; longer documents lose their end")
    spans: SpanConfig = Field(SpanConfig(), description="lengths of interleaved spans")
    seed: int = Field(0, ge=0, description="of the choice of rows and of the interleaving")


def measure_losses(
    session: Session, pairs: Manifest, text: Manifest, config: LossesConfig, *, progress: Progress | None = None
) -> dict[str, Any]:
    """What `summary.json` holds: per kind of document the bits, and how much speech and text they were measured on.

    Raises LstError if the data's tokenizers are not the model's, or if nothing is held out.
    """
    session.check_manifest(pairs, "The data")
    for data in (pairs, text):
        _check_text_tokenizer(session, data)
    report = progress or (lambda *_: None)
    sets: dict[str, Any] = {}
    for done, kind in enumerate(KINDS):
        report(done, len(KINDS), "sets")
        measured = _measure(session, pairs, text, kind, config)
        if measured is not None:
            sets[kind] = measured
    report(len(KINDS), len(KINDS), "sets")
    if not sets:
        raise LstError(
            f"Neither {pairs.path} nor {text.path} has held-out rows (split valid).",
            hint="Make them again with a valid_fraction above 0.",
        )
    totals = {}
    for name, kind, key in (
        ("bits per second of speech", "speech", "speech_bits_per_second"),
        ("bits per text token", "text" if "text" in sets else "transcript", "text_bits_per_token"),
        ("bits per second of speech after text", "interleaved", "text_to_speech_bits_per_second"),
        ("bits per text token after speech", "interleaved", "speech_to_text_bits_per_token"),
    ):
        if kind in sets and key in sets[kind]:
            totals[name] = round(sets[kind][key], 4)
    return {
        "model_id": session.loaded.manifest.id if session.loaded.manifest else "",
        "patch_size": session.patch_size,
        "sets": sets,
        "missing": [kind for kind in KINDS if kind not in sets],
        "totals": totals,
    }


def _measure(
    session: Session, pairs: Manifest, text: Manifest, kind: Kind, config: LossesConfig
) -> dict[str, Any] | None:
    """Sums over at most `max_rows` packed rows of one kind; None if nothing is held out."""
    import torch

    from lst.data.batch import pack_examples
    from lst.model.rates import FrameCounter, loss_counts, rates

    sums: dict[str, float] = {}
    frames = FrameCounter(session.vocabulary, session.unit_bpe.frames() if session.unit_bpe is not None else None)
    documents = 0
    for plans in _rows(session, pairs, text, kind, config):
        batch = pack_examples([[plan.build() for plan in plans]], session.vocabulary)
        with torch.inference_mode():
            output = session.model.loss(batch.to(session.device))
        for name, value in (loss_counts(output) | frames.targets(batch)).items():
            sums[name] = sums.get(name, 0.0) + value
        documents += len(plans)
    if not documents:
        return None
    bits = {name: value for name, value in rates(sums).items() if name not in ("loss", "bits")}
    seconds = sums["speech_frames"] / FRAME_RATE
    return {"documents": documents, "text_tokens": int(sums["text_targets"]), "seconds": seconds, **bits}


def _rows(session: Session, pairs: Manifest, text: Manifest, kind: Kind, config: LossesConfig) -> "list[list[Plan]]":
    """Packed rows of held-out documents: the first `max_rows` of one pass in the order that the seed gives."""
    from itertools import islice

    from lst.data.loader import open_stream
    from lst.data.mixture import MixtureConfig
    from lst.data.stream import DataConfig

    speech = kind != "text"
    if not _has_held_out(pairs if speech else text):
        return []
    data = DataConfig(
        budget=config.budget,
        seed=config.seed,
        mixture=MixtureConfig(speech=float(speech), text=float(not speech)),
        spans=config.spans,
    )
    trained = session.loaded.config.patching
    mode: Literal["bpe", "none", "static"] = "static"
    if trained.mode in ("none", "bpe"):
        mode = "bpe" if trained.mode == "bpe" else "none"
    stream = open_stream(
        pairs if speech else None,
        None if speech else text,
        data,
        PatchingConfig(mode=mode, size=trained.size),
        task="interleaved" if kind == "text" else kind,
        split="valid",
        epochs=1,
        unit_bpe=session.unit_bpe,
    )
    return list(islice(stream, config.max_rows))


def _has_held_out(manifest: Manifest) -> bool:
    return any(
        "valid" in read_table(manifest, shard, ["split"])["split"].unique().to_pylist()
        for shard in range(len(manifest.shards))
    )


def _check_text_tokenizer(session: Session, data: Manifest) -> None:
    theirs, own = data.fingerprints.get("text_tokenizer", ""), session.text.fingerprint
    if theirs != own:
        raise LstError(
            f"The text of {data.path} was tokenized by {theirs[:12] or 'an unknown tokenizer'}, but the model "
            f"{session.directory} has the text tokenizer {own[:12]}.",
            hint="Tokenize it again with the model's tokenizer.model (lst tokenize-text --tokenizer).",
        )
