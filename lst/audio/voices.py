"""Text to sound by programs that are not part of lst: Piper, Kokoro, espeak-ng. Each is a separate process.

    espeak-ng:NAME        a voice of `espeak-ng --voices`, with a variant if you like: espeak-ng:en-us+f3
    piper:FILE.onnx[#N]   a Piper voice file, and the number of the speaker of a voice that has several
    kokoro:NAME           a voice of Kokoro-82M: kokoro:af_heart

The programs must be on the PATH. espeak-ng and Piper are under the GPL: lst runs them and does not link to them.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lst.constants import SAMPLE_RATE
from lst.errors import LstError, UsageError
from lst.manifest import sha256_file

ENGINES = ("espeak-ng", "piper", "kokoro")
MARGIN_S = 0.04
"""Silence kept before and after what is said: one unit."""
QUIET = 0.01
"""Below this share of the peak it is silence."""
PEAK = 0.7

_NAME = re.compile(r"[A-Za-z][\w+-]*")
_INSTALL = {
    "espeak-ng": "Install it with your system's packages (espeak-ng).",
    "piper": "Install piper-tts into an environment of its own and put its bin directory on the PATH.",
    "kokoro": "Install kokoro into an environment of its own and put its bin directory on the PATH.",
}


@dataclass(frozen=True)
class Voice:
    """`identity`: what decides how it sounds, for the cache: the voice file's hash, or the program's version."""

    engine: str
    name: str
    speaker: str
    program: str
    identity: str

    @property
    def label(self) -> str:
        """A short name that can be a part of a file name: `espeak-ng.en-us+f3`."""
        stem = Path(self.name).stem if self.engine == "piper" else self.name
        return f"{self.engine}.{stem}" + (f".{self.speaker}" if self.speaker else "")

    def speak(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """16 kHz mono samples (n,) of each text, silence cut off at both ends.

        Raises LstError if the program fails, or says nothing.
        """
        with tempfile.TemporaryDirectory(prefix="lst-voice-") as folder:
            home = Path(folder)
            files = self._piper(texts, home) if self.engine == "piper" else self._one_by_one(texts, home)
            return [_trimmed(path, text) for path, text in zip(files, texts, strict=True)]

    def _piper(self, texts: Sequence[str], home: Path) -> list[Path]:
        """All in one process, which names its files by the time: their order is that of the texts."""
        source, spoken = home / "lines.txt", home / "spoken"
        spoken.mkdir()
        source.write_text("".join(f"{_line(text)}\n" for text in texts), encoding="utf-8")
        command = [self.program, "-m", self.name, "-i", str(source), "-d", str(spoken)]
        _run([*command, *(["-s", self.speaker] if self.speaker else [])], "")
        files = sorted(spoken.glob("*.wav"), key=lambda path: (len(path.stem), path.stem))
        if len(files) != len(texts):
            raise LstError(f"piper wrote {len(files)} files for {len(texts)} lines.", hint="Try it by hand.")
        return files

    def _one_by_one(self, texts: Sequence[str], home: Path) -> list[Path]:
        files = []
        for number, text in enumerate(texts):
            out, source = home / f"{number}.wav", home / f"{number}.txt"
            if self.engine == "espeak-ng":
                _run([self.program, "-v", self.name, "-w", str(out), "--stdin"], _line(text))
            else:
                source.write_text(_line(text), encoding="utf-8")
                _run([self.program, "--voice", self.name, "--input-file", str(source), "--output-file", str(out)], "")
            files.append(out)
        return files


def open_voice(spec: str) -> Voice:
    """`ENGINE:NAME` as a voice. Raises UsageError for what is none, LstError if the program or the file is missing."""
    engine, _, rest = spec.partition(":")
    if engine not in ENGINES or not rest:
        raise UsageError(f"--voice {spec}: give {', '.join(f'{name}:NAME' for name in ENGINES)}.")
    program = shutil.which(engine)
    if program is None:
        raise LstError(f"There is no program {engine} on the PATH.", hint=_INSTALL[engine])
    name, _, speaker = rest.partition("#") if engine == "piper" else (rest, "", "")
    if engine == "piper":
        if not Path(name).is_file():
            raise LstError(f"There is no voice at {name}.", hint="Give the .onnx file of a Piper voice.")
        if speaker and not speaker.isdecimal():
            raise UsageError(f"--voice {spec}: a speaker is a number.")
        name = str(Path(name).resolve())
        return Voice(engine, name, speaker, program, f"piper {sha256_file(Path(name))} {speaker}")
    if not _NAME.fullmatch(name):
        raise UsageError(f"--voice {spec}: a voice's name has letters, digits, -, + and _.")
    version = _run([program, "--version"], "").strip() if engine == "espeak-ng" else ""
    return Voice(engine, name, "", program, f"{engine} {version.split('Data at')[0].strip()} {name}")


def _line(text: str) -> str:
    return " ".join(text.split())


def _run(command: Sequence[str], text: str) -> str:
    """Standard output of a program that reads `text`."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=600, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LstError(f"{command[0]} could not be run: {error}.") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise LstError(f"{command[0]} failed ({done.returncode}): {said[-1] if said else 'it says nothing'}.")
    return done.stdout


def _trimmed(path: Path, text: str) -> NDArray[np.float32]:
    from lst.audio import AudioError, read_audio

    try:
        samples = np.asarray(read_audio(path), dtype=np.float32)
    except AudioError as error:
        raise LstError(f"Nothing was said for {text!r}: {error.message}") from error
    peak = float(np.abs(samples).max())
    if not peak:
        raise LstError(f"Nothing was said for {text!r}: the sound is silent.")
    loud = np.flatnonzero(np.abs(samples) > QUIET * peak)
    margin = int(MARGIN_S * SAMPLE_RATE)
    kept: NDArray[np.float32] = samples[max(int(loud[0]) - margin, 0) : int(loud[-1]) + margin] * (PEAK / peak)
    return kept
