"""The handshake: units of one tokenizer mean nothing to a model of another's, so they are refused."""

from lst.assets.cards import find_by_fingerprint, read_card
from lst.errors import LstError


def tokenizer_name_of(fingerprint: str) -> str:
    """The name of the unit tokenizer with this fingerprint; empty if it is not on this machine."""
    directory = find_by_fingerprint(fingerprint, "tokenizer") if fingerprint else None
    return "" if directory is None else read_card(directory / "card.json").name


def tokenizer_label(fingerprint: str) -> str:
    """What messages call the unit tokenizer with this fingerprint: `mfcc-501 (3f2a9c…)` if it is on this machine."""
    if not fingerprint:
        return "an unknown tokenizer"
    name, short = tokenizer_name_of(fingerprint), fingerprint[:12]
    return f"{name} ({short})" if name else f"fingerprint {short}"


def check_units(given: str, wanted: str, *, whose: str, model: str) -> None:
    """Raise LstError unless the tokenizer `given` is `wanted`, that of `model`: fingerprints, "" for unknown.

    `whose` begins the message: "The benchmark DIR".
    """
    if given == wanted:
        return
    name = tokenizer_name_of(wanted)
    how = f": --tokenizer {name}" if name else ""
    raise LstError(
        f"{whose} has units of tokenizer {tokenizer_label(given)}, but the model {model} was trained on those of "
        f"{tokenizer_label(wanted)}.",
        hint=f"Make the units again with the model's tokenizer{how}; or use a model trained on these.",
    )
