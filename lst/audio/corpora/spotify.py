"""Spotify Podcasts: an Ogg per episode, transcripts as JSON with word times."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lst.audio.corpora.base import CorpusReader, Utterance, is_audio, walk

EDGE_S = 0.2
"""Word times have a resolution of 0.1 s: a part is widened by so much where the next one is not nearer."""


def read_spotify(src: Path) -> Iterator[Utterance]:
    """`podcasts-audio/0/0/show_00BnuPjwbyMPxVIM7NimQj/7sHyO8wLeEd1LuxfS8AIls.ogg` and
    `podcasts-transcripts/0/0/show_.../7sHyO8wLeEd1LuxfS8AIls.json`, at any depth below `src`.

    The transcript's `results` are stretches of about 30 s, each with `alternatives[0]`: `transcript` and `words`
    (`startTime` "3.300s", `endTime`, `word`). Every stretch becomes an utterance; the last result, which repeats
    all words with speaker tags, is left out. An episode without a transcript is one utterance without text. The
    speaker is the show.
    """
    audio: dict[tuple[str, str], Path] = {}
    transcripts: dict[tuple[str, str], Path] = {}
    for directory, files in walk(src):
        if directory.name.startswith("show_"):
            for name in files:
                key = (directory.name, name.rsplit(".", 1)[0])
                if is_audio(name):
                    audio[key] = directory / name
                elif name.endswith(".json"):
                    transcripts[key] = directory / name
    for key in sorted(audio.keys() | transcripts.keys()):
        show = key[0].removeprefix("show_")
        transcript = transcripts.get(key)
        if key not in audio and transcript is not None:
            # Where the recording would be, had it been fetched.
            yield Utterance(str(transcript.with_suffix(".ogg")), speaker=show, problem=("audio-missing", key[1]))
        elif transcript is None:
            yield Utterance(str(audio[key]), speaker=show)
        else:
            yield from _episode(str(audio[key]), show, transcript)


def _episode(audio: str, show: str, transcript: Path) -> Iterator[Utterance]:
    try:
        parts = list(_stretches(json.loads(transcript.read_text(encoding="utf-8"))))
    except UnicodeDecodeError as error:
        yield Utterance(audio, speaker=show, problem=("invalid-utf8", f"{transcript.name}: {error}"))
        return
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        detail = f"{transcript.name}: {type(error).__name__}: {error}"
        yield Utterance(audio, speaker=show, problem=("bad-line", detail))
        return
    if not parts:
        yield Utterance(audio, speaker=show)
    for index, (start, end, text) in enumerate(parts):
        before = parts[index - 1][1] if index else 0.0
        after = parts[index + 1][0] if index + 1 < len(parts) else end + 2 * EDGE_S
        # To the middle of the gap at most; where stretches overlap, not at all.
        begin = max(start - EDGE_S, min(start, (before + start) / 2))
        finish = min(end + EDGE_S, max(end, (end + after) / 2))
        yield Utterance(audio, text, show, offset_s=round(begin, 3), duration_s=round(finish - begin, 3))


def _stretches(body: dict[str, Any]) -> Iterator[tuple[float, float, str]]:
    for result in body["results"]:
        for alternative in result.get("alternatives", [])[:1]:
            words = alternative.get("words") or []
            text = alternative.get("transcript", "")
            if text and words and "speakerTag" not in words[0]:
                yield _seconds(words[0]["startTime"]), _seconds(words[-1]["endTime"]), text


def _seconds(time: str) -> float:
    """`3.300s` -> 3.3"""
    return float(time.removesuffix("s"))


def _has_shows(src: Path) -> bool:
    for count, (directory, files) in enumerate(walk(src)):
        if directory.name.startswith("show_") and files:
            return True
        if count > 500:
            break
    return False


SPOTIFY = CorpusReader(
    name="spotify",
    corpus="Spotify Podcasts",
    detect=_has_shows,
    read=read_spotify,
    language="en",
    licence="research use only, by agreement with Spotify (withdrawn since 2023)",
    source="https://podcastsdataset.byspotify.com",
    expects="podcasts-audio/0/0/show_ID/EPISODE.ogg and podcasts-transcripts/0/0/show_ID/EPISODE.json",
)
