"""Models by name: an asset of kind `model` is a directory with one model per part, for what each can do.

    pretrained/   goes on from a prompt; benchmarks measure this one
    asr/          fine-tuned to recognise
    tts/          fine-tuned to speak

A name (`lst-nano`) means the part that the command needs, `lst-nano/asr` that part. `recipes/assets/lst_nano.py` makes
`lst-nano`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lst.assets.cards import all_cards, read_card, resolve_asset
from lst.errors import LstError

BOX_MODEL = "lst-nano"
"""The model in the box: what commands use when none is named."""

Part = Literal["pretrained", "asr", "tts"]
PARTS: tuple[Part, ...] = ("pretrained", "asr", "tts")


@dataclass(frozen=True)
class FoundModel:
    """A model directory. `name` is that of an asset's part (`lst-nano/asr`), else the directory as it was given."""

    directory: Path
    name: str


def find_model(given: Path | str | None, part: Part) -> FoundModel:
    """The model that a user names: a model directory, that of an asset, or an asset's name, with or without the part.

    None is the model in the box. `part` is what is needed where an asset is named as a whole. The hashes of an asset's
    files are checked here. Raises LstError if there is no such asset or part, or if it is damaged; a path that is
    neither is given back for its reader to judge.
    """
    named = str(BOX_MODEL if given is None else given)
    if given is not None and Path(given).exists():
        if not (Path(given) / "card.json").is_file():
            return FoundModel(Path(given), named)
        asset, wanted = Path(given), str(part)
    else:
        name, _, rest = named.partition("/")
        card, directory = all_cards().get(name, (None, None))
        if card is None and name == BOX_MODEL:
            raise LstError("There is no model in the box.", hint="Name one with --model: lst pretrain makes them.")
        if card is None:
            return FoundModel(Path(named), named)
        asset, wanted = directory or Path(name), rest or part
        if card.kind == "model" and wanted not in PARTS:
            raise LstError(f"{name} has no part {wanted!r}.", hint=f"It has: {', '.join(PARTS)}.")
    found = resolve_asset(asset, "model")
    return FoundModel(found / wanted, f"{read_card(found / 'card.json').name}/{wanted}")
