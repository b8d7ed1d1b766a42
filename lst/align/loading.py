"""From a name or a path to an aligner. Nothing heavy is imported before one is loaded."""

from pathlib import Path
from typing import TYPE_CHECKING

from lst.errors import LstError

if TYPE_CHECKING:
    from lst.align.base import Aligner

EMBEDDED = "pocketsphinx"
"""The aligner that needs no download."""

MIN_SCORES = {"pocketsphinx": 0.45, "ctc": 0.03}
"""Score of a row below which its transcript is taken for wrong. docs/alignment.md says how they were chosen."""


def load_aligner(name_or_path: str | Path, language: str | None = None) -> "Aligner":
    """`pocketsphinx`, a named CTC aligner, or the path of a wav2vec 2.0 checkpoint with a CTC head.

    `language`: of the transcripts, if not the aligner's own. Raises LstError, with the remedy, if there is no such
    aligner, or if it does not know the language.
    """
    check_language(name_or_path, language)
    if str(name_or_path) == EMBEDDED:
        from lst.align.pocketsphinx import PocketsphinxAligner

        return PocketsphinxAligner()
    from lst.align.ctc import CTCAligner

    return CTCAligner.from_checkpoint(
        find_checkpoint(name_or_path),
        name=aligner_name(name_or_path),
        language=primary_language(language) if language else None,
    )


def check_language(name_or_path: str | Path, language: str | None) -> None:
    """Raise LstError unless the aligner can be used for `language` (None: its own)."""
    from lst.text.numbers import knows_language

    if language is None:
        return
    code = primary_language(language)
    if str(name_or_path) == EMBEDDED and code != "en":
        raise LstError(
            f"The aligner {EMBEDDED} knows English (en) only, not {language!r}.",
            hint="Give a CTC model of that language with --aligner; lst assets list names some.",
        )
    if not knows_language(code):
        raise LstError(
            f"The numbers of a text cannot be read aloud in the language {language!r}.",
            hint="Give a code such as en, de or pt; write the numbers out and give en if there is none.",
        )


def primary_language(tag: str) -> str:
    """`en` for `en-US` or `EN_us`."""
    return tag.replace("_", "-").split("-")[0].lower()


def aligner_fingerprint(name_or_path: str | Path) -> str:
    """Hash of everything the aligner's results depend on, without loading it."""
    if str(name_or_path) == EMBEDDED:
        from lst.align.pocketsphinx import pocketsphinx_fingerprint

        return pocketsphinx_fingerprint()
    from lst.align.checkpoints import checkpoint_fingerprint

    return checkpoint_fingerprint(find_checkpoint(name_or_path))


def default_min_score(name_or_path: str | Path) -> float:
    """The limit for the score of a row that suits this aligner: its own, or that of its kind."""
    if str(name_or_path) == EMBEDDED:
        return MIN_SCORES["pocketsphinx"]
    from lst.align.checkpoints import checkpoint_files
    from lst.align.network import read_ctc_config

    config = read_ctc_config(checkpoint_files(find_checkpoint(name_or_path))[0])
    return MIN_SCORES["ctc"] if config is None or config.min_score is None else config.min_score


def aligner_name(name_or_path: str | Path) -> str:
    """What an aligner is called in manifests: its name, or that of its directory, never its path."""
    return Path(name_or_path).name


def find_checkpoint(name_or_path: str | Path) -> Path:
    """The directory or file of a CTC aligner. Raises LstError if it is unknown, or not on this machine."""
    from lst.assets import resolve_asset

    path = Path(name_or_path)
    if path.is_file() or (path.is_dir() and not (path / "card.json").is_file()):
        return path
    try:
        return resolve_asset(name_or_path, "aligner")
    except LstError as error:
        raise LstError(error.message, hint=f"{error.hint} {EMBEDDED} needs no download.".strip()) from error
