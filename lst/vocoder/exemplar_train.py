"""The stage `train-vocoder` for the kind `exemplar`: units and their audio -> a vocoder directory.

A fit (`lst.vocoder.exemplar_fit`): about a minute for three hours of speech, no GPU, no gradient. The same units,
audio and settings give the same weights.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lst.constants import FRAME_RATE
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    Rejection,
    build_directory,
    is_held_out,
    write_atomic,
    write_json,
)
from lst.vocoder.train import MEASURED, FittedConfig, check_amount, fit_vocoder_spec, vocoder_card

if TYPE_CHECKING:
    from lst.vocoder.exemplar import ExemplarConfig, ExemplarWeights
    from lst.vocoder.exemplar_fit import Utterance
    from lst.vocoder.fitting import FitErrors


class FitExemplarConfig(FittedConfig):
    """How an exemplar vocoder is fitted."""

    kind: Literal["exemplar"] = Field("exemplar", description="exemplar: means of real frames from like surroundings")
    context: int = Field(3, ge=0, le=3, description="units seen on each side; each is 40 ms of look-ahead")
    components: int = Field(24, ge=2, le=128, description="bytes that stand for the frames of a unit")
    neighbours: int = Field(16, ge=1, le=1000, description="exemplars averaged")
    bandwidth: float = Field(2.0, gt=0, description="an exemplar this much farther than the nearest weighs 1/e of it")


def fit_exemplar_vocoder(
    units: Manifest,
    audio: Manifest,
    out: Path,
    config: FitExemplarConfig,
    *,
    progress: Progress | None = None,
    force: bool = False,
) -> Manifest:
    """Fit a vocoder on the units of `units` and the recordings of `audio`; `out` is then usable as `--vocoder`.

    Raises LstError for too little speech, or units beyond the vocabulary.
    """

    def make(directory: Path) -> DirectoryResult:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(1):  # sums in another order would be other weights
            return _fit(directory, units, audio, config, progress)

    return build_directory(out, fit_vocoder_spec(units, audio, config), make, force=force)


def _fit(
    directory: Path, units: Manifest, audio: Manifest, config: FitExemplarConfig, progress: Progress | None
) -> DirectoryResult:
    from lst.vocoder.exemplar import ExemplarConfig
    from lst.vocoder.exemplar_fit import fit_exemplars
    from lst.vocoder.loading import FILES
    from lst.vocoder.spectrum import Spectrum

    exemplar = ExemplarConfig(
        tokenizer=units.fingerprints["tokenizer"],
        num_units=config.num_units,
        context=config.context,
        neighbours=config.neighbours,
        bandwidth=config.bandwidth,
        spectrum=Spectrum(),
        waveform=config.waveform,
    )
    rejected: list[Rejection] = []
    heard, held = _utterances(units, audio, config, rejected, progress)
    count = sum(len(utterance.units) for utterance in [*heard, *held])
    seconds = count / FRAME_RATE
    check_amount(units, seconds, nothing_left=not heard)
    errors = _measure(fit_exemplars(heard, exemplar, config.components, config.penalties), exemplar, held)
    _save(directory, exemplar, fit_exemplars([*heard, *held], exemplar, config.components, config.penalties))
    card = {
        **vocoder_card(
            directory,
            kind="exemplar",
            name=config.name,
            licence=config.licence,
            tokenizer=exemplar.tokenizer,
            provenance=units.provenance,
            description=(
                f"Units to 16 kHz speech: the mean of up to {config.neighbours} real frames that stood among much the "
                f"same {2 * config.context + 1} units (log-mel, F0, voicing), then {config.waveform}."
            ),
        ),
        "source": "fitted by lst train-vocoder",
        "hours": round(seconds / 3600, 3),
        "settings": {
            **config.as_json(),
            "spectrum": asdict(exemplar.spectrum),
            "synthesis": asdict(exemplar.source_filter),
        },
        "numbers": {"held_out_frames": errors.frames, **errors.numbers()},
    }
    write_json(directory / "card.json", card)
    return DirectoryResult(
        artifacts=["card.json", *FILES["exemplar"]],
        totals={"hours": seconds / 3600, "units": count, **errors.numbers()},
        rejected=rejected,
        fingerprints={"vocoder": card["fingerprint"]},
    )


def _utterances(
    units: Manifest,
    audio: Manifest,
    config: FitExemplarConfig,
    rejected: list[Rejection],
    progress: Progress | None,
) -> tuple[list["Utterance"], list["Utterance"]]:
    """Those that are fitted first, and those that measure this fit."""
    import numpy as np

    from lst.vocoder.exemplar_fit import Utterance
    from lst.vocoder.recordings import analysed_utterances
    from lst.vocoder.ridge import join_frames
    from lst.vocoder.spectrum import Spectrum

    spectrum = Spectrum()
    heard: list[Utterance] = []
    held: list[Utterance] = []
    for row_id, _, row_units, frames, _ in analysed_utterances(
        units, audio, config.num_units, config.name or config.kind, rejected, progress
    ):
        utterance = Utterance(row_units, join_frames(frames, spectrum).astype(np.float16))
        (held if is_held_out(row_id, config.held_out) else heard).append(utterance)
    return heard, held


def _measure(weights: "ExemplarWeights", exemplar: "ExemplarConfig", held: list["Utterance"]) -> "FitErrors":
    """How well a fit predicts utterances that it has not met."""
    import numpy as np

    from lst.vocoder.exemplar import ExemplarVocoder
    from lst.vocoder.fitting import FitErrors
    from lst.vocoder.ridge import split_frames

    vocoder = ExemplarVocoder("fit", "", exemplar, weights)
    errors = FitErrors()
    for utterance in held[:MEASURED]:
        true = split_frames(utterance.frames.astype(np.float32), exemplar.spectrum)
        errors.add(vocoder.frames(utterance.units), true)
    return errors


def _save(directory: Path, exemplar: "ExemplarConfig", weights: "ExemplarWeights") -> None:
    from safetensors.numpy import save

    write_atomic(directory / "weights.safetensors", save(dict(vars(weights))))
    write_json(directory / "config.json", exemplar.model_dump(mode="json"))
