"""The stage `train-vocoder` for the kind `ridge`: units and their audio -> a vocoder directory (card, config, weights).

A fit (`lst.vocoder.fitting`): seconds per hour of speech, no GPU, no gradient. The same units, audio and settings give
the same weights. `lst.vocoder.convnext_train` trains the other kind.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from lst.config import StageConfig
from lst.constants import FRAME_RATE
from lst.errors import LstError
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    Rejection,
    StageSpec,
    build_directory,
    is_held_out,
    merge_provenance,
    sha256_file,
    write_atomic,
    write_json,
)

if TYPE_CHECKING:
    from lst.vocoder.base import Float
    from lst.vocoder.fitting import FitErrors, RidgeSums
    from lst.vocoder.ridge import RidgeConfig
    from lst.vocoder.source_filter import Frames

SCHEMA = "lst.vocoder/1"
VERSION = 1

MIN_SECONDS = 10.0
"""Less speech than this is refused: most units would never have been heard."""

MEASURED = 500
"""Held-out utterances at most: they are kept in memory."""


class FittedConfig(StageConfig):
    """What the kinds that are fitted (ridge, exemplar) have in common."""

    context: int
    penalties: tuple[float, ...] = Field(
        (2.0, 6.0, 20.0, 40.0), description="ridge penalty by distance from the unit in the middle: context + 1 numbers"
    )
    num_units: int = Field(501, ge=2, le=501, description="ids of the tokenizer: 0 to num_units - 1")
    waveform: Literal["source-filter", "griffin-lim"] = Field("source-filter", description="what makes the sound")
    held_out: float = Field(0.08, ge=0, lt=0.5, description="share of utterances that measure the fit")
    name: str = Field("", description="what the vocoder calls itself; default: its kind")
    licence: str = Field("", description="licence on its card; default: those of the audio")

    @model_validator(mode="after")
    def _one_penalty_per_distance(self) -> Self:
        if len(self.penalties) != self.context + 1 or min(self.penalties) <= 0:
            raise ValueError(f"penalties must be {self.context + 1} positive numbers, for the distances 0 to context")
        return self


class FitVocoderConfig(FittedConfig):
    """How a ridge vocoder is fitted."""

    kind: Literal["ridge"] = Field("ridge", description="ridge: linear in a window of units")
    context: int = Field(3, ge=0, le=5, description="units seen on each side; each is 40 ms of look-ahead")


def fit_vocoder_spec(units: Manifest, audio: Manifest, config: FittedConfig) -> StageSpec:
    """What fitting a vocoder would make; the kind is part of the configuration."""
    return StageSpec(
        schema=SCHEMA,
        stage="train-vocoder",
        version=VERSION,
        config=config.as_json(),
        inputs={"units": units, "audio": audio},
        fingerprints={"tokenizer": units.fingerprints["tokenizer"]},
        provenance=merge_provenance(units.provenance, audio.provenance),
    )


def fit_vocoder(
    units: Manifest,
    audio: Manifest,
    out: Path,
    config: FitVocoderConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
) -> Manifest:
    """Fit a vocoder on the units of `units` and the recordings of `audio`; `out` is then usable as `--vocoder`.

    `workers` is ignored: the fit takes seconds. Raises LstError for too little speech, or units beyond the vocabulary.
    """

    def make(directory: Path) -> DirectoryResult:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(1):  # sums in another order would be other weights
            return _fit(directory, units, audio, config, progress)

    return build_directory(out, fit_vocoder_spec(units, audio, config), make, force=force)


def _fit(
    directory: Path, units: Manifest, audio: Manifest, config: FitVocoderConfig, progress: Progress | None
) -> DirectoryResult:
    from lst.vocoder.fitting import RidgeSums
    from lst.vocoder.loading import FILES
    from lst.vocoder.recordings import analysed_utterances
    from lst.vocoder.ridge import RidgeConfig, join_frames
    from lst.vocoder.spectrum import Spectrum

    spectrum = Spectrum()
    ridge = RidgeConfig(
        tokenizer=units.fingerprints["tokenizer"],
        num_units=config.num_units,
        context=config.context,
        spectrum=spectrum,
        waveform=config.waveform,
    )
    trained = RidgeSums(config.context, config.num_units, ridge.width)
    held = RidgeSums(config.context, config.num_units, ridge.width)
    measured: list[tuple[Any, Frames]] = []
    rejected: list[Rejection] = []
    for row_id, _, row_units, frames, _ in analysed_utterances(
        units, audio, config.num_units, config.name or config.kind, rejected, progress
    ):
        targets = join_frames(frames, spectrum)
        if is_held_out(row_id, config.held_out):
            held.add(row_units, targets)
            if len(measured) < MEASURED:
                measured.append((row_units, frames))
        else:
            trained.add(row_units, targets)
    seconds = (trained.rows + held.rows) / FRAME_RATE
    check_amount(units, seconds, nothing_left=not trained.rows)
    errors = _measure(trained, config, ridge, measured)
    weights, bias = (trained + held).solve(config.penalties)
    _save(directory, ridge, weights, bias)
    card = _card(directory, units, config, ridge, seconds, errors)
    write_json(directory / "card.json", card)
    return DirectoryResult(
        artifacts=["card.json", *FILES["ridge"]],
        totals={"hours": seconds / 3600, "units": trained.rows + held.rows, **errors.numbers()},
        rejected=rejected,
        fingerprints={"vocoder": card["fingerprint"]},
    )


def check_amount(units: Manifest, seconds: float, *, nothing_left: bool = False) -> None:
    """Raise LstError if so much usable speech is too little for a vocoder. `nothing_left`: all of it is held out."""
    if seconds < MIN_SECONDS or nothing_left:
        raise LstError(
            f"{units.path} has {seconds:.1f} s of usable speech, too little for a vocoder.",
            hint=f"Give at least {MIN_SECONDS:.0f} s, better an hour.",
        )


def _measure(trained: "RidgeSums", config: FitVocoderConfig, ridge: "RidgeConfig", measured: list[Any]) -> "FitErrors":
    """How well the fit on the training part predicts the held-out part."""
    from lst.vocoder.fitting import FitErrors
    from lst.vocoder.ridge import RidgeVocoder

    errors = FitErrors()
    if measured:
        vocoder = RidgeVocoder("fit", "", ridge, *trained.solve(config.penalties))
        for row_units, frames in measured:
            errors.add(vocoder.frames(row_units), frames)
    return errors


def _save(directory: Path, ridge: "RidgeConfig", weights: "Float", bias: "Float") -> None:
    import numpy as np
    from safetensors.numpy import save

    # Half precision: the rounding is a hundredth of a dB, the size is halved.
    tensors: dict[str, np.ndarray] = {"weights": np.ascontiguousarray(weights, np.float16), "bias": bias}
    write_atomic(directory / "weights.safetensors", save(tensors))
    write_json(directory / "config.json", ridge.model_dump(mode="json"))


def _card(
    directory: Path,
    units: Manifest,
    config: FitVocoderConfig,
    ridge: "RidgeConfig",
    seconds: float,
    errors: "FitErrors",
) -> dict[str, Any]:
    card = vocoder_card(
        directory,
        kind="ridge",
        name=config.name,
        licence=config.licence,
        tokenizer=ridge.tokenizer,
        provenance=units.provenance,
        description=(
            f"Units to 16 kHz speech: ridge regression from a window of {2 * config.context + 1} units to log-mel, F0 "
            f"and voicing, then {config.waveform}. Intelligible, not natural; its voice is a mean of those it heard."
        ),
    )
    return {
        **card,
        "source": "fitted by lst train-vocoder",
        "hours": round(seconds / 3600, 3),
        "settings": {**config.as_json(), "spectrum": asdict(ridge.spectrum), "synthesis": asdict(ridge.source_filter)},
        "numbers": {"held_out_frames": errors.frames, **errors.numbers()},
    }


def vocoder_card(
    directory: Path,
    *,
    kind: str,
    name: str,
    licence: str,
    tokenizer: str,
    provenance: list[dict[str, Any]],
    description: str,
) -> dict[str, Any]:
    """What every vocoder's card says, from the files in `directory`; `licence` empty: those of the data."""
    from lst.vocoder.loading import FILES, fingerprint_of

    licences = sorted({entry.get("licence", "") for entry in provenance} - {""})
    digests = {file: sha256_file(directory / file) for file in FILES[kind]}
    return {
        "name": name or kind,
        "kind": "vocoder",
        "version": "1",
        "licence": licence or "; ".join(licences) or "not stated",
        "source": "trained by lst train-vocoder",
        "description": description,
        "files": {
            file: {"sha256": digest, "bytes": (directory / file).stat().st_size} for file, digest in digests.items()
        },
        "fingerprint": fingerprint_of(kind, digests),
        "tokenizer": tokenizer,
        "data": provenance,
    }
