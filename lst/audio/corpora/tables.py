"""Layouts with a table: LJSpeech, a TSV, a Kaldi data directory; and the plain folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from lst.audio.corpora.base import CorpusReader, Utterance, find_audio, first_file, is_audio, read_map, walk
from lst.audio.text import read_lines, read_text
from lst.errors import LstError


def read_ljspeech(src: Path) -> Iterator[Utterance]:
    """`metadata.csv`, lines `LJ001-0001|raw text|normalised text`, and `wavs/LJ001-0001.wav`.

    The normalised text (numbers spelt out) is taken where there is one: it is what was said.
    """
    seen: set[str] = set()
    for line in read_lines(src / "metadata.csv"):
        fields = [part.strip() for part in line.text.split("|")]
        seen.add(fields[0])
        text = fields[2] if len(fields) > 2 and fields[2] else fields[1] if len(fields) > 1 else ""
        audio = find_audio(src / "wavs" / fields[0], (".wav", ".flac", ".ogg", ".opus", ".mp3"))
        yield Utterance(str(audio), text, "linda_johnson", problem=line.problem)
    for directory, files in walk(src / "wavs") if (src / "wavs").is_dir() else ():
        for name in files:
            if is_audio(name) and name.rsplit(".", 1)[0] not in seen:
                yield Utterance(str(directory / name), "", "linda_johnson")


def read_tsv(src: Path) -> Iterator[Utterance]:
    """A table with a header: `file` and `text`, optionally `speaker`, `language`; other columns are ignored.

    `src` is the table, or a folder with `transcripts.tsv` in it or below it, or with just one `.tsv`. Files are
    relative to their table.
    """
    for table in _tables(src):
        yield from _read_table(table)


def _tables(src: Path) -> list[Path]:
    if src.is_file():
        return [src]
    if (src / "transcripts.tsv").is_file():
        return [src / "transcripts.tsv"]
    direct = sorted(path for path in src.glob("*.tsv") if not path.name.startswith("."))
    if len(direct) == 1:
        return direct
    below = [directory / "transcripts.tsv" for directory, files in walk(src) if "transcripts.tsv" in files]
    if not below and direct:
        names = ", ".join(path.name for path in direct)
        raise LstError(f"{src} has several tables ({names}).", hint="Give one of them as the source.")
    return below


def _read_table(table: Path) -> Iterator[Utterance]:
    columns: list[str] | None = None
    for line in read_lines(table):
        values = [value.strip() for value in line.text.split("\t")]
        if columns is None:
            columns = [value.lower() for value in values]
            missing = [name for name in ("file", "text") if name not in columns]
            if missing:
                raise LstError(
                    f"{table}, line {line.number}: the header has no column {' and no column '.join(missing)}.",
                    hint="The first line names the columns, separated by tabs: file, text, perhaps speaker, language.",
                )
            continue
        row = dict(zip(columns, values))
        problem = line.problem
        if problem is None and len(values) < len(columns):
            problem = ("bad-line", f"{table.name}, line {line.number}: {len(values)} of {len(columns)} columns")
        audio = os.path.normpath(table.parent / row.get("file", "").lstrip()) if row.get("file") else f"{table}-line"
        yield Utterance(
            str(audio), row.get("text", ""), row.get("speaker", ""), row.get("language", ""), problem=problem
        )


def read_kaldi(src: Path) -> Iterator[Utterance]:
    """`wav.scp` (recording, path), `text` (utterance, words), optionally `segments` (utterance, recording, start,
    end in seconds) and `utt2spk`. Without `segments` an utterance is a recording.

    Paths in `wav.scp` are taken as they are, or relative to the folder. A command with a pipe is never run: LstError.
    """
    scp = read_map(src / "wav.scp")
    recordings = {key: _kaldi_path(src, key, value) for key, (value, _) in scp.items()}
    texts = read_map(src / "text") if (src / "text").is_file() else {}
    speakers = read_map(src / "utt2spk") if (src / "utt2spk").is_file() else {}

    if (src / "segments").is_file():
        for key, (value, problem) in read_map(src / "segments").items():
            fields = value.split()
            try:
                recording, start, end = fields[0], float(fields[1]), float(fields[2])
            except (IndexError, ValueError):
                detail = f"segments: {key}: {value[:80]!r} is not `recording start end`"
                yield Utterance(str(src / key), problem=("bad-line", detail))
                continue
            text, text_problem = texts.get(key, ("", None))
            audio = recordings.get(recording, src / recording)
            yield Utterance(
                str(audio),
                text,
                speakers.get(key, ("", None))[0],
                offset_s=start,
                duration_s=max(0.0, end - start),
                problem=problem or text_problem,
            )
        return
    for key in [*recordings, *(key for key in texts if key not in recordings)]:
        text, problem = texts.get(key, ("", None))
        audio = recordings.get(key, src / key)
        speaker = speakers.get(key, ("", None))[0]
        yield Utterance(str(audio), text, speaker, problem=scp.get(key, ("", None))[1] or problem)


def _kaldi_path(src: Path, key: str, value: str) -> Path:
    if value.endswith("|") or value.startswith("|"):
        raise LstError(
            f"{src / 'wav.scp'}: {key} is a command ({value[:60]!r}), and commands are not run.",
            hint="Write its output to a file (wav-copy, flac -d) and give the path.",
        )
    name, colon, position = value.rpartition(":")
    if colon and position.isdecimal() and name.endswith(".ark"):
        raise LstError(
            f"{src / 'wav.scp'}: {key} is inside a Kaldi archive ({value[:60]!r}), which is not read.",
            hint="Extract it with wav-copy and give the paths.",
        )
    return Path(os.path.normpath(src / value))


def read_folder(src: Path) -> Iterator[Utterance]:
    """Recordings at any depth, each with its transcript in a `.txt` of the same name, if there is one."""
    for directory, files in walk(src) if src.is_dir() else [(src.parent, [src.name])]:
        names = set(files) if src.is_dir() else {path.name for path in src.parent.glob("*.txt")}
        for name in files:
            if is_audio(name):
                transcript = f"{name.rsplit('.', 1)[0]}.txt"
                text, problem = read_text(directory / transcript) if transcript in names else ("", None)
                yield Utterance(str(directory / name), text, problem=problem)


LJSPEECH = CorpusReader(
    name="ljspeech",
    corpus="LJSpeech",
    detect=lambda src: (src / "metadata.csv").is_file() and (src / "wavs").is_dir(),
    read=read_ljspeech,
    language="en",
    licence="public domain",
    source="https://keithito.com/LJ-Speech-Dataset",
    expects="metadata.csv and wavs/LJ001-0001.wav",
)
TSV = CorpusReader(
    name="tsv",
    corpus="",
    detect=lambda src: (
        src.suffix == ".tsv"
        if src.is_file()
        else first_file(src, lambda name: name == "transcripts.tsv", directories=200) is not None
        or len(list(src.glob("*.tsv"))) == 1
    ),
    read=read_tsv,
    expects="transcripts.tsv with a header (file, text, speaker) and the files it names",
)
KALDI = CorpusReader(
    name="kaldi",
    corpus="",
    detect=lambda src: (src / "wav.scp").is_file(),
    read=read_kaldi,
    expects="wav.scp, text, and perhaps segments and utt2spk",
)
FOLDER = CorpusReader(
    name="folder",
    corpus="",
    detect=lambda src: True,
    read=read_folder,
    expects="x.wav and, if there is a transcript, x.txt",
)
