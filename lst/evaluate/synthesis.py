"""`lst eval tts`: can a recogniser understand what a model says, how does it sound, and how many steps does it take?

    model        units the model generates for the texts, through the vocoder
    resynthesis  the recordings' own units, through the same vocoder: what the vocoder alone costs
    recordings   the sound itself: the judge's own errors, the floor of the other two

Without the judge (extra `judge`) or without a vocoder the counts of units and steps remain, and the summary says what
is missing.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from lst.assets.models import find_model
from lst.config import StageConfig
from lst.constants import FRAME_RATE
from lst.errors import LstError
from lst.evaluate.done import read_done
from lst.evaluate.judge import Judge, JudgeName, QualityJudge, judge_installed
from lst.evaluate.report import tts_markdown
from lst.evaluate.speech_data import Split, Spoken, recordings_of, utterances
from lst.evaluate.stage import eval_spec, write_result
from lst.evaluate.statistics import bootstrap_interval
from lst.evaluate.vocoder import judged_numbers
from lst.evaluate.words import Normaliser
from lst.generate.drafts import best_draft
from lst.generate.recognition import check_recogniser
from lst.generate.sampling import GenerateConfig
from lst.generate.session import Session, open_session
from lst.generate.tasks import SYNTHESIZE, Speech, synthesize
from lst.manifest import DirectoryResult, Manifest, Progress, StageSpec, build_directory, load_manifest, write_atomic

SAID_FILE = "said.jsonl"
DONE_FILE = "done.jsonl"


class TtsEvalConfig(StageConfig):
    """What is said, and who judges."""

    rows: int = Field(50, ge=1, description="texts, chosen by a hash of seed and id")
    split: Split = Field("auto", description="rows of pairs: valid, train, all; auto: the held-out ones if there are")
    max_units: int = Field(500, ge=1, description="longest speech, in units of 40 ms")
    greedy: bool = Field(False, description="the likeliest unit always (it tends to get stuck)")
    temperature: float = Field(0.8, gt=0, description="of the draws")
    top_p: float | None = Field(0.95, gt=0, le=1, description="draw among the likeliest units with this probability")
    drafts: int = Field(1, ge=1, description="say a text so many times and keep what the listener hears best")
    listener: Path | None = Field(None, description="model fine-tuned for asr that hears the drafts; null: lst-nano's")
    vocoder: str | None = Field(None, description="name or directory; null: the one made for the model's units")
    judge: JudgeName = Field("whisper-base", description="recogniser: whisper-base, or whisper-tiny.en")
    normaliser: Normaliser = Field("auto", description="simple, whisper, or auto: whisper where it is installed")
    seed: int = Field(0, ge=0, description="of the choice of rows, the draws and the intervals")

    @model_validator(mode="after")
    def _drafts_differ(self) -> "TtsEvalConfig":
        if self.greedy and self.drafts > 1:
            raise ValueError("greedy: nothing is drawn, so all drafts would be the same")
        return self

    def as_json(self) -> dict[str, Any]:
        """The settings; `drafts` is left out where there is one, as before there was the key, and `listener` always."""
        settings = super().as_json()
        return {key: value for key, value in settings.items() if key != "listener" and (key, value) != ("drafts", 1)}

    @property
    def drawing(self) -> GenerateConfig:
        """How units are generated."""
        changes = {"max_tokens": self.max_units, "greedy": self.greedy, "temperature": self.temperature}
        return SYNTHESIZE.model_copy(update=changes | {"top_p": self.top_p, "seed": self.seed})


def tts_spec(model: Manifest, data: Manifest, config: TtsEvalConfig) -> StageSpec:
    """What `evaluate_tts` would make; whether there is a judge counts, so that one installed later is used."""
    more: dict[str, Any] = {"judged": judge_installed()}
    if config.drafts > 1:
        more["listener_id"] = load_manifest(_listener(config)).id
    return eval_spec("eval-tts", {"model": model, "data": data}, config, more=more)


def _listener(config: TtsEvalConfig) -> Path:
    return find_model(config.listener, "asr").directory


def evaluate_tts(
    model: Manifest,
    data: Manifest,
    out: Path,
    config: TtsEvalConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    device: str = "cpu",
) -> Manifest:
    """Say the texts of `data` and write `lst.eval/1` to `out`; a killed run continues where it was.

    `workers` is ignored. Raises LstError if `data` has no text, or if the model was fine-tuned for another task.
    """

    def make(directory: Path) -> DirectoryResult:
        session = open_session(model.path, device=device)
        listener = open_session(_listener(config), device=device) if config.drafts > 1 else None
        summary, said = measure_tts(session, data, config, directory / DONE_FILE, listener=listener, progress=progress)
        write_atomic(directory / SAID_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in said))
        return write_result(directory, summary, tts_markdown(summary), [SAID_FILE])

    return build_directory(out, tts_spec(model, data, config), make, force=force)


def measure_tts(
    session: Session,
    data: Manifest,
    config: TtsEvalConfig,
    done_file: Path,
    *,
    listener: Session | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The summary, and per text {id, text, units, stopped, global_steps}; made ones are kept in `done_file`.

    `listener`: hears the drafts, where there are several.
    """
    session.check_manifest(data, "The data")
    if listener is not None:
        check_recogniser(session, listener)
    if session.task == "asr":
        raise LstError(f"{session.directory} was fine-tuned to recognise, not to speak.", hint="Give a tts model.")
    chosen = utterances(data, split=config.split, rows=config.rows, seed=config.seed)
    said = _say(session, listener, chosen, config, done_file, progress)
    spoken = [row for row in said if "error" not in row]
    if not spoken:
        raise LstError(f"No text could be said (first: {said[0]['error']})")
    by_id = {one.id: one for one in chosen}
    units = np.array([len(row["units"]) for row in spoken])
    steps = np.array([row["global_steps"] for row in spoken])
    real = np.array([len(by_id[row["id"]].units) for row in spoken])
    endless = bootstrap_interval([float(row["stopped"] != "end") for row in spoken], seed=config.seed)
    summary: dict[str, Any] = {
        "model_id": session.loaded.manifest.id if session.loaded.manifest else "",
        "task": session.task,
        "texts": len(spoken),
        "failed": {row["id"]: row["error"] for row in said if "error" in row},
        "units": float(units.mean()),
        "global_steps": float(steps.mean()),
        "steps_per_unit": float(steps.sum() / max(1, units.sum())),
        "seconds": float(units.sum() / FRAME_RATE),
        "units_per_recorded": float(units.sum() / real.sum()) if real.all() else None,
        "non_stopping": {"value": endless.mean, "low": endless.low, "high": endless.high},
        "sets": {},
        "missing": {},
    }
    _judge(session, data, [(by_id[row["id"]], row["units"]) for row in spoken], config, summary)
    made = summary["sets"].get("model", {})
    summary["totals"] = {
        "texts": len(spoken),
        "non_stopping": round(endless.mean, 5),
        "global_steps": round(summary["global_steps"], 3),
        **{name: made[name] for name in ("cer", "wer", "dnsmos") if name in made},
    }
    return summary, said


def _say(
    session: Session,
    listener: Session | None,
    chosen: Sequence[Spoken],
    config: TtsEvalConfig,
    done_file: Path,
    progress: Progress | None,
) -> list[dict[str, Any]]:

    done = read_done(done_file)
    report = progress or (lambda *_: None)
    with done_file.open("a", encoding="utf-8") as file:
        for number, one in enumerate(chosen):
            if one.id not in done:
                entry: dict[str, Any] = {"id": one.id, "text": one.text}
                try:
                    made = _speech(session, listener, one.text, config)
                    entry |= {"units": made.units.tolist(), "stopped": made.stopped, "global_steps": made.global_steps}
                except LstError as error:
                    entry["error"] = error.message
                done[one.id] = entry
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
                file.flush()
            report(number + 1, len(chosen), "texts")
    return [done[one.id] for one in chosen]


def _speech(session: Session, listener: Session | None, text: str, config: TtsEvalConfig) -> Speech:
    if listener is None:
        return synthesize(session, text, config=config.drawing)
    return best_draft(session, listener, text, drafts=config.drafts, config=config.drawing).speech


def _judge(
    session: Session,
    data: Manifest,
    said: Sequence[tuple[Spoken, list[int]]],
    config: TtsEvalConfig,
    summary: dict[str, Any],
) -> None:
    """Fill `sets` (what could be judged) and `missing` (one sentence each)."""
    from lst.generate.voice import open_vocoder

    try:
        judge, quality = Judge(config.judge), QualityJudge()
    except LstError as error:
        summary["missing"]["judge"] = str(error)
        return
    summary |= {"judge": judge.name, "quality": quality.name}
    texts = [one.text for one, _ in said]
    clips: dict[str, list[Any]] = {}
    try:
        vocoder = open_vocoder(session, config.vocoder)
        summary["vocoder"] = vocoder.name
        clips["model"] = [_spoken(vocoder, units) for _, units in said]
        if all(one.units for one, _ in said):
            clips["resynthesis"] = [_spoken(vocoder, one.units) for one, _ in said]
    except LstError as error:
        summary["missing"]["vocoder"] = str(error)
    recordings = recordings_of(data, [one.id for one, _ in said])
    if recordings is not None:
        clips["recordings"] = recordings
    else:
        summary["missing"]["recordings"] = f"the recordings behind {data.path} are not there, so the floor is unknown"
    for name, samples in clips.items():
        heard = judge.errors(samples, texts, normaliser=config.normaliser, seed=config.seed)
        rated = [quality.rate(clip) for clip in samples if len(clip)]
        summary["sets"][name] = judged_numbers(heard, rated, config.seed)
        summary["normaliser"], summary["jiwer"] = heard.errors.normaliser, heard.errors.jiwer


def _spoken(vocoder: Any, units: Sequence[int]) -> Any:
    return vocoder.synthesize(np.asarray(units, dtype=np.uint16)) if len(units) else np.zeros(0, np.float32)
