"""Asset cards: what a tokenizer, aligner, vocoder or model is, where it comes from, and the hash of every file.

An asset is a directory with `card.json` and the files it names. Embedded ones ship in `lst/assets/embedded/NAME/`;
those that users fetch have their card in `lst/assets/cards/NAME.json` and land in the asset directory (`asset_home`).
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lst.errors import LstError
from lst.manifest.files import inside
from lst.manifest.hashing import sha256_file

HERE = Path(__file__).resolve().parent
EMBEDDED = HERE / "embedded"
CARDS = HERE / "cards"

KINDS = ("tokenizer", "aligner", "vocoder", "model", "text-tokenizer")

ALIASES = {"mfcc": "mfcc-501"}
"""Short names users may type."""


@dataclass(frozen=True)
class AssetFile:
    """One file: `sha256` and `bytes` are None while nobody has recorded them; `url` is None for embedded files."""

    sha256: str | None
    bytes: int | None = None
    url: str | None = None


@dataclass(frozen=True)
class Card:
    """A card as read; `extra` holds what only people read (training data, measured numbers, ...)."""

    name: str
    kind: str
    version: str
    licence: str
    source: str
    description: str
    files: dict[str, AssetFile]
    fingerprint: str = ""
    access: str = ""
    """How to get a gated asset; empty if anybody may download it."""
    extra: dict[str, Any] = field(default_factory=dict)


def read_card(path: Path) -> Card:
    """Read a `card.json`. Raises LstError if it is not one."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        files = {name: AssetFile(**entry) for name, entry in body.pop("files").items()}
        known = {key: body.pop(key) for key in ("name", "kind", "version", "licence", "source", "description")}
    except FileNotFoundError as error:
        raise LstError(f"{path.parent} holds no card.json.", hint="Give the directory of an asset.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LstError(f"{path} is not a card ({type(error).__name__}: {error}).") from error
    if known["kind"] not in KINDS:
        raise LstError(f"{path}: unknown kind {known['kind']!r}.", hint=f"Kinds are {', '.join(KINDS)}.")
    return Card(
        **known, files=files, fingerprint=body.pop("fingerprint", ""), access=body.pop("access", ""), extra=body
    )


def asset_home() -> Path:
    """Where fetched assets live: $LST_ASSETS, else the user's data directory."""
    configured = os.environ.get("LST_ASSETS")
    if configured:
        return Path(configured)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path(os.path.expanduser("~")) / ".local" / "share") / "lst" / "assets"


def all_cards() -> dict[str, tuple[Card, Path | None]]:
    """Every asset known by name, with its directory if it is there: embedded, fetched, or merely described."""
    found: dict[str, tuple[Card, Path | None]] = {}
    for path in sorted(CARDS.glob("*.json")):
        card = read_card(path)
        fetched = asset_home() / card.name
        found[card.name] = (card, fetched if (fetched / "card.json").is_file() else None)
    for path in sorted(EMBEDDED.glob("*/card.json")):
        card = read_card(path)
        found[card.name] = (card, path.parent)
    return found


def verify_asset(directory: Path) -> list[str]:
    """Problems of an asset on disk: files missing, of another size, or of another hash than its card says."""
    card = read_card(directory / "card.json")
    problems = []
    for name, entry in card.files.items():
        path = inside(directory, name, what=str(directory / "card.json"))
        if not path.is_file():
            problems.append(f"{path} is missing.")
        elif entry.sha256 is None:
            problems.append(f"{directory / 'card.json'} records no sha256 of {name}.")
        elif sha256_file(path) != entry.sha256:
            problems.append(f"{path} does not match the sha256 of its card.")
    return problems


def resolve_asset(name_or_path: str | Path, kind: str) -> Path:
    """The directory of an asset, its files checked against their hashes.

    Takes a path to a directory with `card.json`, or a name. Raises LstError if it is unknown, not fetched yet, damaged,
    or of another kind; the message says what to do.
    """
    directory = _find(str(name_or_path), kind)
    card = read_card(directory / "card.json")
    if card.kind != kind:
        raise LstError(f"{card.name} is a {card.kind}, but a {kind} is needed here.", hint=_names(kind))
    problems = verify_asset(directory)
    if problems:
        raise LstError(f"Asset {card.name}: {problems[0]}", hint="Fetch or install it again.")
    return directory


def _find(name: str, kind: str) -> Path:
    path = Path(name)
    if (path / "card.json").is_file():
        return path
    if path.is_dir():
        raise LstError(f"{path} holds no card.json.", hint=f"Give the directory of a {kind}, or a name. {_names(kind)}")
    name = ALIASES.get(name, name)
    cards = all_cards()
    if name not in cards:
        import difflib

        close = difflib.get_close_matches(name, cards, n=1)
        maybe = f"Did you mean {close[0]}? " if close else ""
        raise LstError(f"No {kind} {name!r}: neither a directory nor a known name.", hint=maybe + _names(kind))
    card, directory = cards[name]
    if directory is None:
        how = card.access or f"Run: lst assets pull {name}"
        raise LstError(f"The {card.kind} {name} is not on this machine.", hint=how)
    return directory


def _names(kind: str) -> str:
    names = [name for name, (card, _) in all_cards().items() if card.kind == kind]
    return f"Known: {', '.join(names)}." if names else "None ships with lst."


def find_by_fingerprint(fingerprint: str, kind: str) -> Path | None:
    """The directory of an asset on this machine with this fingerprint, if there is one."""
    for card, directory in all_cards().values():
        if directory is not None and card.kind == kind and card.fingerprint == fingerprint:
            return directory
    return None
