"""The stage `train-tokenizer`: audio -> a tokenizer directory (card, codebook, `tokenizer.json`, network).

mfcc: features of every utterance, then a codebook (`lst.units.codebooks`). hubert: see `lst.units.train_hubert`.
The same audio, settings and seed give the same bytes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lst.audio import AudioError
from lst.config import StageConfig
from lst.constants import FRAME_RATE
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    Rejection,
    StageSpec,
    build_directory,
    iter_rows,
    merge_provenance,
    sha256_file,
    write_json,
)
from lst.units.codebooks import Fitted, fit
from lst.units.hubert_config import HubertConfig
from lst.units.loading import tokenizer_fingerprint
from lst.units.spec import SPEC_FILE, TokenizerSpec
from lst.units.stage import row_chunks

if TYPE_CHECKING:
    import numpy as np

SCHEMA = "lst.tokenizer/1"
VERSION = 1

CODEBOOK_FILE = "codebook.safetensors"


class TrainTokenizerConfig(StageConfig):
    """How a tokenizer is made."""

    kind: Literal["mfcc", "hubert"] = Field(
        default="mfcc",
        description="mfcc: k-means on MFCC-39, HuBERT's first targets. hubert: a network trained by masked prediction.",
    )
    units: int = Field(default=501, ge=2, le=501, description="Clusters; ids are 0 ... units - 1.")
    seed: int = Field(default=0, ge=0, description="Of the sample of frames, of k-means, and of the training.")
    max_frames: int = Field(
        default=500_000, ge=1_000, description="Frames that k-means sees; 25 per second, 160 MB per 500,000."
    )
    name: str = Field(
        default="", pattern=r"^[\w.-]*$", description="What the tokenizer calls itself; empty: KIND-UNITS."
    )
    licence: str = Field(default="", description="Licence on the card; empty: those of the audio.")
    hubert: HubertConfig = Field(default=HubertConfig(), description="For kind hubert: targets, network, training.")

    @property
    def called(self) -> str:
        """Its name."""
        return self.name or f"{self.kind}-{self.units}"


def train_tokenizer_spec(audio: Manifest, config: TrainTokenizerConfig, valid: Manifest | None = None) -> StageSpec:
    """What `train_tokenizer` would make. Teachers and initial weights count by what they are, not where they lie."""
    settings = config.as_json()
    if config.kind == "hubert":
        from lst.units.train_hubert import identities

        settings["hubert"] |= identities(config.hubert)
    else:
        del settings["hubert"]
    inputs = {"audio": audio} | ({"valid": valid} if valid is not None else {})
    return StageSpec(
        schema=SCHEMA,
        stage="train-tokenizer",
        version=VERSION,
        config=settings,
        inputs=inputs,
        provenance=merge_provenance(*(manifest.provenance for manifest in inputs.values())),
    )


def train_tokenizer(
    audio: Manifest,
    out: Path,
    config: TrainTokenizerConfig,
    *,
    valid: Manifest | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    force: bool = False,
) -> Manifest:
    """Make a tokenizer from `audio`; `out` then works as `--tokenizer`.

    A HuBERT may be validated on the audio of `valid` while it is trained; a training that was stopped or killed goes on
    when this is called again. Raises LstError if there is too little audio for the units asked for, or if it is silent,
    and TrainingStopped after a stop signal.
    """
    spec = train_tokenizer_spec(audio, config, valid)

    def make(directory: Path) -> DirectoryResult:
        if config.kind == "hubert":
            from lst.units.train_hubert import make_hubert

            return make_hubert(directory, audio, valid, config, device=device, progress=progress)
        rejected: list[Rejection] = []
        features = enumerate(_mfcc(audio, rejected, progress))
        fitted = fit(features, config.units, config.seed, config.max_frames, source=audio.path)
        description = (
            f"{config.units} units at {FRAME_RATE} Hz: k-means on MFCC-39, the targets of HuBERT's first iteration. "
            "Its units follow the sound, the voice included, more than the phone: take a HuBERT wherever there is one."
        )
        return describe(directory, audio, config, {"kind": "mfcc"}, fitted, rejected, description)

    return build_directory(out, spec, make, force=force)


def describe(
    directory: Path,
    audio: Manifest,
    config: TrainTokenizerConfig,
    encoder: dict[str, Any],
    fitted: Fitted,
    rejected: list[Rejection],
    description: str,
    *,
    numbers: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = None,
    kept: tuple[str, ...] = (),
    logs: tuple[str, ...] = (),
) -> DirectoryResult:
    """Write codebook, `tokenizer.json` and `card.json`; `kept` (on the card as well) and `logs` lie there already.

    `numbers` join those of the codebook on the card, `facts` the card itself.
    """
    fitted.codebook.save(directory / CODEBOOK_FILE)
    parts = {"name": config.called, "encoder": encoder, "quantizer": {"weights": CODEBOOK_FILE}}
    spec = TokenizerSpec.model_validate(parts)
    write_json(directory / SPEC_FILE, spec.model_dump(mode="json"))
    names = sorted({SPEC_FILE, *spec.files().values(), *kept})
    files = {
        file: {"sha256": sha256_file(directory / file), "bytes": (directory / file).stat().st_size} for file in names
    }
    fingerprint = tokenizer_fingerprint(directory)
    licences = sorted({entry.get("licence", "") for entry in audio.provenance} - {""})
    hours = (facts or {}).get("hours", round(fitted.frames_seen / FRAME_RATE / 3600, 3))  # (a last frame counts whole)
    card = {
        "name": config.called,
        "kind": "tokenizer",
        "version": "1",
        "licence": config.licence or "; ".join(licences) or "not stated",
        "source": "fitted by lst train-tokenizer",
        "description": description,
        "files": files,
        "fingerprint": fingerprint,
        "data": audio.provenance,
        "hours": hours,
        "frames": {"seen": fitted.frames_seen, "fitted": fitted.frames_fitted},
        "seed": config.seed,
        "numbers": {**fitted.numbers, **(numbers or {})},
        **(facts or {}),
    }
    write_json(directory / "card.json", card)
    return DirectoryResult(
        artifacts=["card.json", *names, *logs],
        totals={"hours": hours, "units": config.units},
        rejected=rejected,
        fingerprints={"tokenizer": fingerprint},
    )


def _mfcc(audio: Manifest, rejected: list[Rejection], progress: Progress | None) -> Iterator["np.ndarray"]:
    """Features of the utterances that can be read, in order; long ones come in pieces."""
    from lst.units.mfcc import MfccEncoder

    encoder = MfccEncoder()
    for done, row in enumerate(iter_rows(audio)):
        if progress is not None:
            progress(done, audio.rows, "utterances")
        try:
            for chunk in row_chunks(audio, row):
                yield encoder.features(chunk)
        except AudioError as error:
            rejected.append(Rejection(row["id"], error.reason, str(error)))
    if progress is not None:
        progress(audio.rows, audio.rows, "utterances")
