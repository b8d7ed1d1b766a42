"""The `samples` stage: what the trained models do, to be heard and read. `lst.waves/1` with `samples.json`.

held-out recordings   written down by the ASR model, beside their real text; and their units vocoded as they are,
                      which is the best any model of units can sound
sentences             spoken by the TTS model
spoken prompts        the beginning of a held-out recording, continued as speech and as text

Another model may do the same beside them: one that is named, such as the model in the box.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from lst.config import StageConfig
from lst.constants import FRAME_RATE, SAMPLE_RATE
from lst.errors import LstError
from lst.generate.recognition import TRANSCRIBE, recognition_prompt
from lst.generate.sampling import GenerateConfig
from lst.generate.session import Session, open_session
from lst.generate.tasks import continue_prompt, synthesize
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    StageSpec,
    build_directory,
    iter_rows,
    load_manifest,
    merge_provenance,
    write_json,
)

if TYPE_CHECKING:
    from lst.vocoder import Vocoder

VERSION = 1
SAMPLES_FILE = "samples.json"


class SamplesConfig(StageConfig):
    """Which samples are made."""

    recordings: int = Field(2, ge=1, le=100, description="held-out recordings to transcribe and to continue")
    sentences: list[str] = Field(
        ["Once upon a time there was a little cat.", "The boy and his friend went to the park."],
        description="texts to speak",
    )
    prompt_s: float = Field(3.0, gt=0, description="seconds of a recording that are continued")
    speech: GenerateConfig = Field(
        GenerateConfig(modality="speech", max_tokens=150, min_tokens=10),
        description="how units are drawn",
    )
    max_text_tokens: int = Field(40, ge=1, description="longest text continuation of a spoken prompt")
    vocoder: str | None = Field(None, description="vocoder; null: the one made for the model's units")
    beside: str | None = Field(
        None, description="a model by name (lst-nano) that does the same beside these; null: none"
    )
    seed: int = Field(0, ge=0, description="of the draws")


def samples_spec(
    asr: Manifest, tts: Manifest, model: Manifest, pairs: Manifest, audio: Manifest, config: SamplesConfig
) -> StageSpec:
    """What `samples` would make. Raises LstError if there is no vocoder for the models' units, or no model `beside`."""
    from lst.vocoder import choose_vocoder, vocoder_fingerprint, vocoder_name

    vocoder = choose_vocoder(config.vocoder, model.fingerprints.get("tokenizer", ""), str(model.path), told_by=model)
    inputs = {"asr": asr, "tts": tts, "model": model, "pairs": pairs, "audio": audio}
    return StageSpec(
        schema="lst.waves/1",
        stage="samples",
        version=VERSION,
        config={**config.as_json(), "vocoder": vocoder_name(vocoder)},
        inputs=inputs,
        fingerprints={
            **{key: value for key, value in model.fingerprints.items() if key != "model"},
            "vocoder": vocoder_fingerprint(vocoder),
            **{f"beside_{part}": load_manifest(path).id for part, path in _beside(config).items()},
        },
        provenance=merge_provenance(*(manifest.provenance for manifest in inputs.values())),
    )


def _beside(config: SamplesConfig) -> dict[str, Path]:
    """The directories of the model beside, by part; empty if there is none."""
    from lst.assets.models import PARTS, find_model

    return {} if config.beside is None else {part: find_model(config.beside, part).directory for part in PARTS}


def samples(
    asr: Manifest,
    tts: Manifest,
    model: Manifest,
    pairs: Manifest,
    audio: Manifest,
    out: Path,
    config: SamplesConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    device: str = "cpu",
) -> Manifest:
    """Make the samples and write them to `out`. Raises LstError if pairs and models do not belong together."""

    def make(directory: Path) -> DirectoryResult:
        maker = _Maker(directory, config, progress or (lambda *_: None))
        maker.sessions = _open({"asr": asr.path, "tts": tts.path, "pretrained": model.path}, pairs, device)
        maker.beside = _open(_beside(config), pairs, device)
        maker.run(_held_out(pairs, audio, config, maker.sessions["asr"]))
        write_json(directory / SAMPLES_FILE, maker.result())
        totals = {"samples": len(maker.entries), "seconds": sum(row["duration_s"] for row in maker.rows)}
        return DirectoryResult(
            artifacts=[SAMPLES_FILE, *(row["path"] for row in maker.rows)], totals=totals, rows=maker.rows
        )

    return build_directory(out, samples_spec(asr, tts, model, pairs, audio, config), make, force=force)


def _open(models: dict[str, Path], pairs: Manifest, device: str) -> dict[str, Session]:
    sessions = {part: open_session(path, device=device) for part, path in models.items()}
    for session in sessions.values():
        session.check_manifest(pairs, "The data")
    return sessions


class _Maker:
    """Writes the sounds and collects what is said about them."""

    def __init__(self, directory: Path, config: SamplesConfig, progress: Progress) -> None:
        self.directory = directory
        self.config = config
        self.rows: list[dict[str, Any]] = []
        self.entries: list[dict[str, Any]] = []
        self.sessions: dict[str, Session] = {}
        self.beside: dict[str, Session] = {}
        self._progress = progress
        self._vocoder: Vocoder | None = None

    def run(self, recordings: list[dict[str, Any]]) -> None:
        total = 2 * len(recordings) + len(self.config.sentences)
        self._progress(0, total, "samples")
        for number, row in enumerate(recordings):
            self._recording(number, row)
            self._progress(len(self.entries), total, "samples")
            self._continuation(number, row)
            self._progress(len(self.entries), total, "samples")
        for number, sentence in enumerate(self.config.sentences):
            self._sentence(number, sentence)
            self._progress(len(self.entries), total, "samples")

    def result(self) -> dict[str, Any]:
        """What `samples.json` holds."""
        heard = [entry for entry in self.entries if entry["kind"] == "transcribe"]
        body = {"samples": self.entries, "asr": _score(heard, heard)}
        if self.beside:
            body["beside"] = {"name": self.config.beside, "asr": _score(heard, [entry["beside"] for entry in heard])}
        return body

    def _recording(self, number: int, row: dict[str, Any]) -> None:
        units = np.asarray(row["units"], dtype=np.uint16)
        self.entries.append(
            {
                "kind": "transcribe",
                "id": row["id"],
                "held_out": row["split"] == "valid",
                "reference": row["text"],
                "original": self._copy(f"recording-{number}-original", row["samples"]),
                "units_only": self._say(f"recording-{number}-units", units),
                **self._both("asr", lambda session, _: _hear(session, units, row["id"])),
            }
        )

    def _continuation(self, number: int, row: dict[str, Any]) -> None:
        prompt = np.asarray(row["units"], dtype=np.uint16)[: round(self.config.prompt_s * FRAME_RATE)]
        speech = self._drawn()
        written = speech.model_copy(update={"modality": "text", "max_tokens": self.config.max_text_tokens})

        def go_on(session: Session, mark: str) -> dict[str, Any]:
            spoken = continue_prompt(session, prompt, config=speech)
            return {
                "text": continue_prompt(session, prompt, config=written).text,
                "stopped": spoken.stopped,
                "units": spoken.units.tolist(),
                "whole": self._say(f"prompt-{number}-continued{mark}", np.concatenate([prompt, spoken.units])),
            }

        self.entries.append(
            {
                "kind": "continue",
                "id": row["id"],
                "held_out": row["split"] == "valid",
                "prompt_s": len(prompt) / FRAME_RATE,
                "reference": row["text"],
                "prompt": self._say(f"prompt-{number}", prompt),
                **self._both("pretrained", go_on),
            }
        )

    def _sentence(self, number: int, sentence: str) -> None:
        def say(session: Session, mark: str) -> dict[str, Any]:
            made = synthesize(session, sentence, config=self._drawn())
            return {
                "stopped": made.stopped,
                "units": made.units.tolist(),
                "global_steps": made.global_steps,
                "spoken": self._say(f"sentence-{number}{mark}", made.units),
            }

        self.entries.append({"kind": "synthesize", "text": sentence, **self._both("tts", say)})

    def _both(self, part: str, do: Callable[[Session, str], dict[str, Any]]) -> dict[str, Any]:
        """What the models do and, under `beside`, what the one beside them does; `do` gets a mark for its files."""
        made = do(self.sessions[part], "")
        return made | {"beside": do(self.beside[part], "-beside")} if self.beside else made

    def _drawn(self) -> GenerateConfig:
        return self.config.speech.model_copy(update={"seed": self.config.seed})

    def _say(self, name: str, units: np.ndarray) -> str:
        from lst.generate.voice import open_vocoder, speak

        if self._vocoder is None:
            self._vocoder = open_vocoder(self.sessions["pretrained"], self.config.vocoder)
        return self._row(name, speak(self._vocoder, units, self.directory / f"{name}.wav"))

    def _copy(self, name: str, samples: np.ndarray) -> str:
        from lst.generate.voice import write_sound

        return self._row(name, write_sound(self.directory / f"{name}.wav", samples, SAMPLE_RATE))

    def _row(self, name: str, seconds: float) -> str:
        self.rows.append({"id": name, "path": f"{name}.wav", "duration_s": seconds})
        return f"{name}.wav"


def _hear(session: Session, units: np.ndarray, name: str) -> dict[str, Any]:
    from lst.generate.decoding import generate

    # Nobody says eight tokens a second: a model that has not learnt to stop is not waited for.
    config = TRANSCRIBE.model_copy(update={"max_tokens": max(16, len(units) // 3)})
    (made,) = generate(session, [recognition_prompt(session, units, name)], "text", config)
    return {"text": session.text.decode(made.ids("text").tolist()), "stopped": made.stopped}


def _score(recordings: Sequence[dict[str, Any]], heard: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """WER and CER over the transcribed recordings: a handful, so an impression and no result."""
    from lst.evaluate.words import word_errors

    errors = word_errors([entry["reference"] for entry in recordings], [entry["text"] for entry in heard])
    return vars(errors) | {"recordings": len(heard)}


def _held_out(pairs: Manifest, audio: Manifest, config: SamplesConfig, asr: Session) -> list[dict[str, Any]]:
    """Recordings to work with, `samples` (n,) included: held-out ones of 2 to 12 seconds first, then any that fit.

    Evenly spread over the manifest, so that one corpus or speaker does not take all the places.
    """
    from lst.audio import open_row_audio

    longest_s = (asr.context // 2) * asr.patch_size / FRAME_RATE
    ranks: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for place, row in enumerate(iter_rows(pairs, ["duration_s", "split"])):
        if 0.1 < row["duration_s"] <= longest_s:
            comfortable = 2 <= row["duration_s"] <= 12
            ranks[2 if row["split"] != "valid" else 1 - comfortable].append(place)
    chosen: list[int] = []
    for rank in sorted(ranks):
        places, wanted = ranks[rank], config.recordings - len(chosen)
        if places and wanted > 0:
            spread = np.linspace(0, len(places) - 1, min(wanted, len(places))).astype(int)
            chosen += [places[index] for index in np.unique(spread)]
    if not chosen:
        raise LstError(f"{pairs.path} has no utterance short enough for a sample.", hint="Segment the recordings.")
    rows = {place: row for place, row in enumerate(iter_rows(pairs)) if place in chosen}
    wanted_ids = {row["id"] for row in rows.values()}
    sounds = {row["id"]: row for row in iter_rows(audio) if row["id"] in wanted_ids}
    for row in rows.values():
        if row["id"] not in sounds:
            raise LstError(f"{audio.path} lacks {row['id']}, which is in {pairs.path}.", hint="Run ingest again.")
        row["samples"] = open_row_audio(audio, sounds[row["id"]])
    return [rows[place] for place in chosen]
