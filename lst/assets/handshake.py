"""The handshake: units of one tokenizer mean nothing to a model of another's, so they are refused."""

from lst.assets.cards import find_by_fingerprint, read_card
from lst.errors import LstError
from lst.manifest.manifest import Manifest


def tokenizer_label(fingerprint: str, *told_by: Manifest | None) -> str:
    """What messages call the unit tokenizer with this fingerprint: `mfcc-501 (3f2a9c…)`.

    The name is that of an asset on this machine, else the one that a manifest among `told_by` was made with.
    """
    if not fingerprint:
        return "an unknown tokenizer"
    told = [_named_in(manifest) for manifest in told_by if manifest is not None and _units_of(manifest) == fingerprint]
    name = _asset_name(fingerprint) or next(filter(None, told), "")
    short = fingerprint[:12]
    return f"{name} ({short})" if name else f"fingerprint {short}"


def check_units(given: str, wanted: str, *, whose: str, model: str, told_by: tuple[Manifest | None, ...] = ()) -> None:
    """Raise LstError unless the tokenizer `given` is `wanted`, that of `model`: fingerprints, "" for unknown.

    `whose` begins the message: "The benchmark DIR". `told_by`: manifests that may know the tokenizers' names.
    """
    if given == wanted:
        return
    name = _asset_name(wanted)
    how = f": --tokenizer {name}" if name else ""
    raise LstError(
        f"{whose} has units of tokenizer {tokenizer_label(given, *told_by)}, but the model {model} was trained on "
        f"those of {tokenizer_label(wanted, *told_by)}.",
        hint=f"Make the units again with the model's tokenizer{how}; or use a model trained on these.",
    )


def _asset_name(fingerprint: str) -> str:
    directory = find_by_fingerprint(fingerprint, "tokenizer") if fingerprint else None
    return "" if directory is None else read_card(directory / "card.json").name


def _units_of(manifest: Manifest) -> str:
    return manifest.fingerprints.get("tokenizer", "")


def _named_in(manifest: Manifest) -> str:
    """What the tokenizer called itself when the units behind `manifest` were made; empty if it does not say."""
    behind = [(manifest.stage, manifest.config)]
    behind += [(entry["stage"], entry["config"]) for entry in manifest.ancestors.values()]
    makers = ("tokenize-audio", "import-benchmark")
    return next((config["tokenizer"] for stage, config in behind if stage in makers and config.get("tokenizer")), "")
