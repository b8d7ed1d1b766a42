"""Tokenizers by name or path."""

import importlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

from lst.assets import read_card, resolve_asset
from lst.errors import LstError
from lst.manifest import sha256_file
from lst.units.quantizers import load_quantizer
from lst.units.spec import ENCODER_KINDS, TokenizerSpec, read_spec
from lst.units.tokenizer import Encoder, UnitTokenizer


def load_tokenizer(name_or_path: str | Path, *, device: str = "cpu") -> UnitTokenizer:
    """A tokenizer by the name of an asset (`mfcc-501`, `hubert-25hz-501`) or the directory that holds its files.

    Raises LstError if it is unknown, damaged, not at 25 units/s, or if its parts do not fit together.
    """
    found = identify_tokenizer(name_or_path)
    directory, spec = found.directory, found.spec
    quantizer = load_quantizer(directory / spec.quantizer.weights)
    module, function = ENCODER_KINDS[spec.encoder.kind].loader.split(":")
    encoder = cast(Encoder, getattr(importlib.import_module(module), function)(spec.encoder, directory, device))
    if encoder.dim != quantizer.dim:
        raise LstError(
            f"{directory}: the encoder makes features of {encoder.dim} dimensions, but the quantizer "
            f"{spec.quantizer.weights} takes {quantizer.dim}.",
            hint="They belong to different tokenizers.",
        )
    if quantizer.num_units > 501:
        raise LstError(
            f"{directory / spec.quantizer.weights} has {quantizer.num_units} units, but lst keeps ids 0 to 500.",
            hint="Use a quantizer of at most 501 units.",
        )
    return UnitTokenizer(spec.name, found.fingerprint, encoder, quantizer, spec.windows)


def tokenizer_fingerprint(name_or_path: str | Path) -> str:
    """What two tokenizers share exactly when they give the same units. Reads hashes and JSON only, no torch."""
    return identify_tokenizer(name_or_path).fingerprint


def tokenizer_name(name_or_path: str | Path) -> str:
    """The name a tokenizer calls itself, which is what manifests record instead of a path."""
    return identify_tokenizer(name_or_path).spec.name


@dataclass(frozen=True)
class TokenizerIdentity:
    """A tokenizer that has been found, not loaded."""

    directory: Path
    spec: TokenizerSpec
    fingerprint: str


def identify_tokenizer(name_or_path: str | Path) -> TokenizerIdentity:
    """Find a tokenizer and hash its files. Raises LstError if it is unknown, damaged or not described."""
    directory = Path(name_or_path)
    if directory.is_file():
        raise LstError(f"{directory} is a file.", hint=f"Give the directory of the tokenizer: {directory.parent}.")
    digests: dict[str, str] = {}
    if not directory.is_dir() or (directory / "card.json").is_file():
        directory = resolve_asset(name_or_path, "tokenizer")
        # Just compared with the files by `resolve_asset`.
        files = read_card(directory / "card.json").files
        digests = {name: entry.sha256 for name, entry in files.items() if entry.sha256}
    spec = read_spec(directory)
    by_role = {role: digests.get(name) or _digest(directory / name) for role, name in spec.files().items()}
    return TokenizerIdentity(directory, spec, spec.fingerprint(by_role))


def _digest(path: Path) -> str:
    state = path.stat()
    return _digest_of(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest_of(path: Path, size: int, mtime_ns: int) -> str:
    """The hash of a file in the state that its size and time tell, read once per process."""
    return sha256_file(path)
