"""`lst eval units`: how good a tokenizer's units are, how well they stand disturbances, and how fast they come.

Quality (Hsu et al. 2021, section IV-F): units against the phones of a forced alignment of transcribed speech.
Robustness: share of units that stay under noise, gain, a band limit, another speed.
Invariance: a clip alone, among others, in pieces; a long file cut in windows against the same file in one piece.
Speed: seconds of audio per CPU-second, one thread; on request HuBERT-base of random weights on the same clips.
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from lst.audio import AudioError
from lst.audio.rows import open_row_audio
from lst.config import StageConfig
from lst.constants import DEFAULT_TOKENIZER, FRAME_RATE, SAMPLE_RATE
from lst.errors import LstError
from lst.evaluate.disturbances import disturbances, unchanged
from lst.evaluate.report import units_markdown
from lst.evaluate.stage import VERSION, write_result
from lst.manifest import DirectoryResult, Manifest, Progress, StageSpec, build_directory, iter_rows
from lst.units import identify_tokenizer, load_tokenizer
from lst.units.abx import abx_error, angles, draw_triples, triphones, unequal
from lst.units.phones import Span, align_spans
from lst.units.quality import frame_labels, measure
from lst.units.tokenizer import UnitTokenizer

LONGEST_S = 60.0
SEAM_S = 1.0
"""Units this near to a seam are counted apart."""


class UnitsConfig(StageConfig):
    """What is measured, and on how much."""

    tokenizer: str = Field(default=DEFAULT_TOKENIZER, description="Name of a unit tokenizer, or the directory of one.")
    aligner: str = Field(default="pocketsphinx", description="finds the phones")
    minutes: float = Field(default=40.0, gt=0, description="aligned speech for the quality")
    disturbed_minutes: float = Field(default=10.0, gt=0, description="speech that is disturbed")
    abx_triples: int = Field(default=20_000, ge=0, description="triples of each ABX error; 0: no ABX")
    base: bool = Field(default=False, description="compare the speed with HuBERT-base (slow: a minute of one core)")
    seed: int = Field(default=0, ge=0, description="of the choice of rows and of the noise")


def units_spec(audio: Manifest, config: UnitsConfig) -> StageSpec:
    """What `units` would make. The tokenizer counts by its fingerprint, not by where it lies."""
    tokenizer = identify_tokenizer(config.tokenizer)
    return StageSpec(
        schema="lst.eval/1",
        stage="eval-units",
        version=VERSION,
        config={**config.as_json(), "tokenizer": tokenizer.spec.name},
        inputs={"audio": audio},
        fingerprints={"tokenizer": tokenizer.fingerprint},
        provenance=audio.provenance,
    )


def units(
    audio: Manifest,
    out: Path,
    config: UnitsConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    device: str = "cpu",
) -> Manifest:
    """Measure a tokenizer on transcribed speech and write `lst.eval/1` to `out`.

    `workers` is ignored: speed is measured in one thread. Raises LstError if the tokenizer cannot be used, or if
    nothing can be aligned.
    """

    def make(directory: Path) -> DirectoryResult:
        summary = measure_units(load_tokenizer(config.tokenizer, device=device), audio, config, progress)
        return write_result(directory, summary, units_markdown(summary), [])

    return build_directory(out, units_spec(audio, config), make, force=force)


def measure_units(
    tokenizer: UnitTokenizer, audio: Manifest, config: UnitsConfig, progress: Progress | None = None
) -> dict[str, Any]:
    """The summary of `lst eval units`. Raises LstError if nothing of `audio` can be aligned with its text."""
    rows = _rows(audio, config.seed)
    clips: dict[str, np.ndarray] = {}
    speakers: dict[str, str] = {}

    def transcribed() -> Any:
        for row in rows:
            if not row["text"] or row["duration_s"] > LONGEST_S:
                continue
            try:
                samples = open_row_audio(audio, row)
            except AudioError:
                continue
            clips[row["id"]], speakers[row["id"]] = samples, row["speaker"] or ""
            yield row["id"], samples, row["text"], tokenizer.num_frames(len(samples))

    wanted = round(config.minutes * 60 * FRAME_RATE)
    spans, left_out = align_spans(transcribed(), frames=wanted, aligner=config.aligner, progress=progress)
    phones = {name: frame_labels(found, tokenizer.num_frames(len(clips[name]))) for name, found in spans.items()}
    if not phones:
        raise LstError(f"{audio.path} has no utterance that could be aligned with its text.")
    started = time.process_time()
    units = {name: tokenizer.encode(clips[name]) for name in phones}
    cpu_s = time.process_time() - started
    seconds = sum(len(clips[name]) for name in phones) / SAMPLE_RATE
    disturbed = _first(phones, clips, config.disturbed_minutes * 60)
    summary: dict[str, Any] = {
        "tokenizer": tokenizer.name,
        "fingerprint": tokenizer.fingerprint,
        "aligner": config.aligner,
        "utterances": len(phones),
        "seconds": round(seconds, 1),
        "left_out": left_out,
        "quality": _quality(units, phones, speakers),
        "abx": _abx(tokenizer, units, clips, spans, speakers, config),
        "robustness": _robustness(tokenizer, units, clips, disturbed, config.seed),
        "invariance": _invariance(tokenizer, units, clips, disturbed),
        "speed": {"audio_s_per_cpu_s": round(seconds / max(cpu_s, 1e-9), 1)},
    }
    if config.base:
        summary["speed"] |= _against_base(tokenizer, clips, disturbed)
    quality = summary["quality"]
    summary["totals"] = {key: quality[key] for key in ("pnmi", "phone_purity", "speaker_nmi", "frames")}
    return summary


def _rows(audio: Manifest, seed: int) -> list[dict[str, Any]]:
    rows = list(iter_rows(audio))
    return [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))]


def _first(phones: dict[str, list[str]], clips: dict[str, np.ndarray], seconds: float) -> list[str]:
    """Names of the first clips that last so long together."""
    names, total = [], 0.0
    for name in phones:
        names.append(name)
        total += len(clips[name]) / SAMPLE_RATE
        if total >= seconds:
            break
    return names


def _quality(
    units: dict[str, np.ndarray], phones: dict[str, list[str]], speakers: dict[str, str]
) -> dict[str, float | int]:
    names = list(phones)
    lengths = [min(len(units[name]), len(phones[name])) for name in names]
    frames = np.concatenate([units[name][:length] for name, length in zip(names, lengths, strict=True)])
    labels = [label for name, length in zip(names, lengths, strict=True) for label in phones[name][:length]]
    voices = [speakers[name] for name, length in zip(names, lengths, strict=True) for _ in range(length)]
    found = asdict(measure(frames, labels, voices))
    return {
        **{key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()},
        "speakers": len(set(voices)),
    }


def _abx(
    tokenizer: UnitTokenizer,
    units: dict[str, np.ndarray],
    clips: dict[str, np.ndarray],
    spans: dict[str, list[Span]],
    speakers: dict[str, str],
    config: UnitsConfig,
) -> dict[str, Any]:
    """Errors within and across speakers, of units and of the features behind them; nothing where no triple is there.

    Silence, noises and unknown sounds ("?") end the surroundings. Features are standardised, so that angles between
    MFCC say something.
    """
    if config.abx_triples == 0:
        return {}
    items = [
        item
        for name, found in spans.items()
        for item in triphones(
            [span for span in found if span[2].isalpha() and span[2] != "SIL"],
            len(units[name]),
            utterance=name,
            speaker=speakers[name],
        )
    ]
    features = {name: tokenizer.encoder.features(clips[name]).astype(np.float32) for name in spans}
    frames = np.concatenate(list(features.values()))
    mean, scale = frames.mean(axis=0), np.maximum(frames.std(axis=0), 1e-6)
    features = {name: (values - mean) / scale for name, values in features.items()}
    found_errors: dict[str, Any] = {}
    for across, where in ((False, "within"), (True, "across")):
        triples = draw_triples(items, across=across, most=config.abx_triples, seed=config.seed)
        if triples:
            found_errors[where] = {
                "features": round(abx_error(triples, features, angles), 4),
                "units": round(abx_error(triples, units, unequal), 4),
                "triples": len(triples),
                "pairs": len({(triple.a.phone, triple.b.phone) for triple in triples}),
            }
    return found_errors


def _robustness(
    tokenizer: UnitTokenizer,
    units: dict[str, np.ndarray],
    clips: dict[str, np.ndarray],
    names: list[str],
    seed: int,
) -> dict[str, float]:
    shares = {}
    for number, (name, disturbance) in enumerate(disturbances().items()):
        random = np.random.default_rng([seed, number])
        same = [
            unchanged(units[clip], tokenizer.encode(disturbance.apply(clips[clip], random)), disturbance.speed)
            for clip in names
        ]
        shares[name] = round(float(np.concatenate(same).mean()), 4)
    return shares


def _invariance(
    tokenizer: UnitTokenizer, units: dict[str, np.ndarray], clips: dict[str, np.ndarray], names: list[str]
) -> dict[str, float]:
    """Shares of equal units. `batch`: the clips again in one run, in another order, each in pieces of 0.3 s."""
    piece = round(0.3 * SAMPLE_RATE)
    same = []
    for name in reversed(names):
        samples = clips[name]
        again = np.concatenate(
            [*tokenizer.encode_stream(samples[first : first + piece] for first in range(0, len(samples), piece))]
        )
        same.append(again == units[name])
    return {"batch": round(float(np.concatenate(same).mean()), 4), **_across_windows(tokenizer, clips)}


def _across_windows(tokenizer: UnitTokenizer, clips: dict[str, np.ndarray]) -> dict[str, float]:
    """A file of somewhat more than two windows: cut in windows, against all of it in one piece."""
    windows = tokenizer.windows
    length = tokenizer.encoder.num_samples(2 * windows.hop + windows.length)
    joined = np.concatenate(list(clips.values()))
    long = np.resize(joined, length).astype(np.float32)
    whole = tokenizer.quantizer.codes(tokenizer.encoder.features(long))
    cut = tokenizer.encode(long)
    count = min(len(whole), len(cut))
    same = whole[:count] == cut[:count]
    seams = np.array([index * windows.hop + windows.margin for index in range(1, -(-count // windows.hop))])
    near = np.abs(np.arange(count)[:, None] - seams[None]).min(axis=1) <= SEAM_S * FRAME_RATE
    return {"windows": round(float(same.mean()), 4), "seams": round(float(same[near].mean()), 4)}


def _against_base(tokenizer: UnitTokenizer, clips: dict[str, np.ndarray], names: list[str]) -> dict[str, float]:
    """Both on the same first clips, about a minute."""
    from lst.units.hubert import random_base

    chosen: list[np.ndarray] = []
    for name in names:
        chosen.append(clips[name])
        if sum(map(len, chosen)) > 60 * SAMPLE_RATE:
            break
    base = random_base()
    spent = {}
    for key, features in (("base", base.features), ("own", tokenizer.encode)):
        features(chosen[0])
        started = time.process_time()
        for samples in chosen:
            features(samples)
        spent[key] = max(time.process_time() - started, 1e-9)
    seconds = sum(map(len, chosen)) / SAMPLE_RATE
    return {
        "hubert_base_audio_s_per_cpu_s": round(seconds / spent["base"], 2),
        "times_hubert_base": round(spent["base"] / spent["own"], 1),
    }
