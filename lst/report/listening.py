"""What the models say and hear: players and transcripts of the `samples` stage and of other synthesised audio."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from lst.errors import LstError
from lst.manifest import Manifest, inside, iter_rows
from lst.report.html import Html, join, note, number, percent, quote, seconds, tag
from lst.report.run import Run, read_json
from lst.report.sound import file_player

SAMPLES_FILE = "samples.json"
MAX_CLIPS = 24
"""Entries shown per stage: the page has to stay a file that one can send."""

_STOPPED = {
    "length": "stopped at the longest length allowed, not by itself",
    "context": "stopped because the model's context was full, not by itself",
}


def listening_section(run: Run) -> Html:
    """Samples, stage by stage."""
    waves = run.of_schema("lst.waves")
    if not waves:
        return note("No audio samples in this run.")
    parts: list[Html] = []
    for name, manifest in waves.items():
        if len(waves) > 1:
            parts.append(tag("h3", name))
        parts.append(_samples(manifest) if SAMPLES_FILE in manifest.artifacts else _waves(manifest))
    return join(parts)


def _samples(manifest: Manifest) -> Html:
    body = read_json(manifest, SAMPLES_FILE)
    entries = list(body.get("samples", []))
    beside = body.get("beside") or {}
    parts: list[Html] = []
    for kind, (title, about, lines) in _KINDS.items():
        chosen = [entry for entry in entries if entry.get("kind") == kind][:MAX_CLIPS]
        if not chosen:
            continue
        parts += [tag("h3", title), tag("p", about, class_="lead")]
        score = body.get("asr") or {}
        if kind == "transcribe" and "wer" in score:
            rates = f"Word error rate {percent(score['wer'])}, character error rate {percent(score['cer'])}"
            if beside:
                rates += f" ({beside['name']}: {percent(beside['asr']['wer'])}, {percent(beside['asr']['cer'])})"
            parts.append(tag("p", f"{rates}; recordings: {number(score['recordings'])}, an impression and no result."))
        parts.append(
            tag("div", [_clip(manifest, entry, lines, beside.get("name", "")) for entry in chosen], class_="clips")
        )
    return join(parts) if parts else note("The samples stage made no samples.")


def _clip(manifest: Manifest, entry: Mapping[str, Any], lines: tuple[tuple[str, str, bool], ...], beside: str) -> Html:
    items = []
    for key, label, is_sound in lines:
        for made, title in ((entry, label), (entry.get("beside", {}), f"{label}, {beside}")):
            if key in made:
                shown = _sound(manifest, made[key]) if is_sound else quote(made[key] or "(nothing)")
                items += [tag("dt", title), tag("dd", shown)]
    said = [entry["id"]] if "id" in entry else []
    if entry.get("held_out") is False:
        said.append("seen in training")
    if "prompt_s" in entry:
        said.append(f"prompt of {seconds(entry['prompt_s'])}")
    if entry.get("stopped") in _STOPPED:
        said.append(_STOPPED[entry["stopped"]])
    header = tag("div", " · ".join(said), class_="id") if said else None
    return tag("div", header, tag("dl", items), class_="clip")


def _sound(manifest: Manifest, name: str) -> Html:
    try:
        path = manifest.file(name) if name in manifest.artifacts else inside(manifest.path, name, what=SAMPLES_FILE)
        return file_player(path)
    except LstError as error:
        return note("No sound: " + str(error).replace(f"{manifest.path}/", ""))


def _waves(manifest: Manifest) -> Html:
    clips = []
    for row in islice(iter_rows(manifest, ["id", "path", "duration_s"]), MAX_CLIPS):
        items = [tag("dt", seconds(row["duration_s"])), tag("dd", _sound(manifest, row["path"]))]
        clips.append(tag("div", tag("div", row["id"], class_="id"), tag("dl", items), class_="clip"))
    rest = manifest.rows - len(clips)
    return join([tag("div", clips, class_="clips"), tag("p", f"And {rest:,} more.") if rest > 0 else None])


_KINDS: dict[str, tuple[str, str, tuple[tuple[str, str, bool], ...]]] = {
    "transcribe": (
        "Recordings written down",
        "Held-out recordings as the ASR model hears them. “Units only” is the recording turned into units and back "
        "into sound with no model between: the best that any model of these units can sound.",
        (
            ("original", "Recording", True),
            ("units_only", "Units only", True),
            ("reference", "Said", False),
            ("text", "Heard", False),
        ),
    ),
    "synthesize": (
        "Sentences spoken",
        "Text that the TTS model turns into units, and the vocoder into sound.",
        (("text", "Text", False), ("spoken", "Spoken", True)),
    ),
    "continue": (
        "Spoken prompts continued",
        "The pre-trained model hears the beginning of a held-out recording and goes on, as speech and as text.",
        (
            ("prompt", "Prompt", True),
            ("whole", "Prompt and continuation", True),
            ("text", "Continued as text", False),
            ("reference", "What was really said", False),
        ),
    ),
}
