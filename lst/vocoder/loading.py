"""Vocoders by name or path, and the handshake: a vocoder speaks the units of one tokenizer only."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, NamedTuple

from lst.assets import all_cards, find_by_fingerprint, read_card, resolve_asset, tokenizer_label
from lst.constants import DEFAULT_TOKENIZER, DEFAULT_VOCODER
from lst.errors import LstError, UsageError
from lst.manifest import Manifest, load_manifest, sha256_file, sha256_json
from lst.manifest.manifest import MANIFEST_FILE
from lst.vocoder.base import Vocoder
from lst.vocoder.config_file import AGAIN, CONFIG_FILE, WEIGHTS_FILE, read_config

CODE_VERSION = 1
"""Raise it whenever the same files would give another waveform."""

FILES = {
    "ridge": (CONFIG_FILE, WEIGHTS_FILE),
    "exemplar": (CONFIG_FILE, WEIGHTS_FILE),
    "convnext": (CONFIG_FILE, WEIGHTS_FILE),
    "gan": (CONFIG_FILE, WEIGHTS_FILE),
    "hifigan": (CONFIG_FILE, "generator.pt"),
}
"""The files that determine the waveform, by kind of vocoder."""


Kind = Literal["ridge", "exemplar", "convnext", "gan", "hifigan"]
_PREFERENCE: Final[tuple[Kind, ...]] = ("hifigan", "exemplar", "ridge", "convnext", "gan")
"""Best first, by the character error rates of docs/vocoder.md; HiFi-GAN, the published form, is not measured there."""
_FITTED: Final = ("exemplar", "ridge")
"""Kinds without a network: one voice, either synthesiser."""

GRIFFIN_LIM: Final = "griffin-lim"
"""The name of a synthesiser: the fitted vocoder made for the units at hand with it; `NAME:griffin-lim` names one."""


class _Found(NamedTuple):
    """A vocoder before it is loaded."""

    name: str
    directory: Path
    kind: Kind
    fingerprint: str
    tokenizer: str
    waveform: Literal["griffin-lim"] | None


def load_vocoder(
    name_or_path: str | Path,
    *,
    tokenizer: str | None = None,
    told_by: Manifest | None = None,
    speaker: str = "",
    style: str = "",
) -> Vocoder:
    """A vocoder by the name of an asset (`ridge-mfcc-501`) or the directory that holds its files.

    A fitted one (ridge, exemplar) whose name or directory ends in `:griffin-lim` speaks by that synthesiser.
    `tokenizer` is the fingerprint of the units it is to speak, checked before its weights are loaded; `told_by`, their
    manifest, may know that tokenizer's name. `speaker` and `style` are for vocoders that have several. Raises LstError
    if it is unknown, damaged, or made for other units.
    """
    found = _identify(name_or_path)
    if tokenizer is not None and (found.tokenizer or found.kind != "hifigan"):
        _check_fingerprints(found.name, found.tokenizer, tokenizer, manifest_in(found.directory), told_by)
    if found.kind in _FITTED:
        if speaker or style:
            raise LstError(f"The vocoder {found.name} has one voice.", hint="Leave out --speaker and --style.")
        if found.kind == "ridge":
            from lst.vocoder.ridge import load_ridge

            return load_ridge(found.directory, found.name, found.fingerprint, found.waveform)
        from lst.vocoder.exemplar import load_exemplar

        return load_exemplar(found.directory, found.name, found.fingerprint, found.waveform)
    if found.kind in ("convnext", "gan"):
        from lst.vocoder.convnext import load_convnext
        from lst.vocoder.gan import load_gan

        if style:
            raise LstError(f"The vocoder {found.name} has no styles.", hint="Leave out --style.")
        load = load_convnext if found.kind == "convnext" else load_gan
        return load(found.directory, found.name, found.fingerprint, speaker)
    from lst.vocoder.hifigan_files import load_hifigan

    vocoder = load_hifigan(
        found.directory, found.name, found.fingerprint, found.tokenizer, speaker=speaker, style=style
    )
    if tokenizer is not None:
        check_handshake(vocoder, tokenizer)
    return vocoder


def vocoder_fingerprint(name_or_path: str | Path) -> str:
    """What two vocoders share exactly when they give the same waveforms. Hashes files, loads no torch."""
    return _identify(name_or_path).fingerprint


def vocoder_name(name_or_path: str | Path) -> str:
    """The name a vocoder calls itself, which is what manifests record instead of a path."""
    return _identify(name_or_path).name


def fingerprint_of(kind: str, digests: Mapping[str, str], waveform: str | None = None) -> str:
    """From the SHA-256 of the files of a vocoder by name (`FILES`), and the synthesiser if it is not its own."""
    return sha256_json({"version": CODE_VERSION, "kind": kind, "waveform": waveform, "files": dict(digests)})


def choose_vocoder(name: str | None, tokenizer: str, units: str = "", *, told_by: Manifest | None = None) -> str:
    """What `load_vocoder` takes: `name`, or the best vocoder on this machine for units of the tokenizer `tokenizer`.

    `tokenizer` is a fingerprint, empty if nobody knows; `units` says in errors whose they are; `told_by` is a manifest
    that may know the tokenizer's name. The name `griffin-lim`
    becomes the best fitted vocoder for these units with that synthesiser. Raises LstError if there is none, and
    UsageError if it takes the tokenizer to tell.
    """
    if name is not None and name != GRIFFIN_LIM:
        return name
    if not tokenizer:
        raise UsageError(
            f"{units or 'Nothing'} does not say which tokenizer made its units.",
            hint="Give the vocoder (--vocoder; lst assets list has those that are here).",
        )
    found = find_vocoder(tokenizer, fitted=name == GRIFFIN_LIM)
    if found is None:
        raise LstError(
            f"No {'fitted ' if name else ''}vocoder on this machine was made for "
            f"{f'the units of {units}' if units else 'units'} (tokenizer {tokenizer_label(tokenizer, told_by)}).",
            hint="Fit one with lst train-vocoder, and give it with --vocoder.",
        )
    return f"{found}:{GRIFFIN_LIM}" if name else str(found)


def find_vocoder(tokenizer_fingerprint: str, *, fitted: bool = False) -> Path | None:
    """The directory of the best vocoder on this machine made for the units of this tokenizer, if there is one.

    Its card names the tokenizer's fingerprint as `tokenizer`. Kinds are taken in the order of what was measured
    (docs/vocoder.md): HiFi-GAN, which has to be put there, exemplar, ridge, ConvNeXt, GAN; of a kind `DEFAULT_VOCODER`,
    then the first name. `fitted`: the best that is no network.
    """
    found = [
        (_PREFERENCE.index(kind), card.name != DEFAULT_VOCODER, card.name, directory)
        for card, directory in all_cards().values()
        if card.kind == "vocoder" and directory is not None and card.extra.get("tokenizer") == tokenizer_fingerprint
        for kind in [_kind(directory)]
        if kind in _FITTED or not fitted
    ]
    return min(found)[-1] if found else None


def check_handshake(vocoder: Vocoder, tokenizer_fingerprint: str) -> None:
    """Refuse units of another tokenizer. Raises LstError that names both sides and the remedy.

    A vocoder whose files do not say what it was made for is held to the size of the tokenizer's vocabulary, as far as
    that tokenizer is on this machine: as many units, or one less (a CTC blank, which is never left in units).
    """
    if vocoder.tokenizer_fingerprint:
        _check_fingerprints(vocoder.name, vocoder.tokenizer_fingerprint, tokenizer_fingerprint)
        return
    size = _tokenizer_size(tokenizer_fingerprint)
    if size is not None and vocoder.num_units not in (size, size - 1):
        raise LstError(
            f"The vocoder {vocoder.name} has {vocoder.num_units} units, but the tokenizer "
            f"{tokenizer_label(tokenizer_fingerprint)} has {size}.",
            hint="They do not belong together: use the vocoder made for that tokenizer.",
        )


def _check_fingerprints(name: str, made_for: str, given: str, *told_by: Manifest | None) -> None:
    """Raise LstError unless both tokenizers are one. `told_by`: manifests that may know their names."""
    if made_for == given:
        return
    directory = find_by_fingerprint(made_for, "tokenizer")
    other = find_vocoder(given)
    remedies = []
    if directory is not None:
        own = read_card(directory / "card.json").name
        remedies.append(f"tokenize the audio with {own} (lst tokenize-audio --tokenizer {own})")
    if other is not None:
        remedies.append(f"use --vocoder {read_card(other / 'card.json').name}")
    remedies.append("fit a vocoder on these units (lst train-vocoder)")
    raise LstError(
        f"The vocoder {name} was made for units of the tokenizer {tokenizer_label(made_for, *told_by)}, "
        f"but these are units of {tokenizer_label(given, *told_by)}.",
        hint="Either " + ", or ".join(remedies) + ".",
    )


def manifest_in(directory: Path) -> Manifest | None:
    """The manifest in `directory`, if there is one: beside a vocoder of `lst train-vocoder`, but not in an asset."""
    return load_manifest(directory) if (directory / MANIFEST_FILE).is_file() else None


def _tokenizer_size(fingerprint: str) -> int | None:
    directory = find_by_fingerprint(fingerprint, "tokenizer") if fingerprint else None
    if directory is None:
        return None
    from lst.units.quantizers import load_quantizer
    from lst.units.spec import read_spec

    return load_quantizer(directory / read_spec(directory).quantizer.weights).num_units


def _identify(name_or_path: str | Path) -> _Found:
    if str(name_or_path) == GRIFFIN_LIM:
        raise LstError(
            f"{GRIFFIN_LIM} is a synthesiser, not a vocoder.",
            hint=f"Name the fitted vocoder that it is to serve: ridge-{DEFAULT_TOKENIZER}:{GRIFFIN_LIM}.",
        )
    plain = str(name_or_path).removesuffix(f":{GRIFFIN_LIM}")
    waveform: Literal["griffin-lim"] | None = None if plain == str(name_or_path) else GRIFFIN_LIM
    path = Path(plain)
    if path.is_file():
        raise LstError(f"{path} is a file.", hint=f"Give the directory of the vocoder: {path.parent}.")
    name, tokenizer = "", ""
    if path.is_dir() and not (path / "card.json").is_file() and (path / "generator.pt").is_file():
        directory = path  # as it was published: no card of ours
        name = path.resolve().name
    else:
        directory = resolve_asset(plain, "vocoder")
        card = read_card(directory / "card.json")
        name, tokenizer = card.name, str(card.extra.get("tokenizer", ""))
    kind = _kind(directory)
    missing = [file for file in FILES[kind] if not (directory / file).is_file()]
    if missing:
        raise LstError(f"{directory} lacks {', '.join(missing)}.", hint=AGAIN)
    if waveform is not None:
        if kind not in _FITTED:
            raise LstError(f"The vocoder {name} makes its own waveform.", hint=f"Leave out :{GRIFFIN_LIM}.")
        name = f"{name}:{GRIFFIN_LIM}"
    if kind == "ridge":
        from lst.vocoder.ridge import RidgeConfig

        tokenizer = read_config(directory, RidgeConfig).tokenizer
    elif kind == "exemplar":
        from lst.vocoder.exemplar import ExemplarConfig

        tokenizer = read_config(directory, ExemplarConfig).tokenizer
    elif kind == "convnext":
        from lst.vocoder.convnext import ConvnextConfig

        tokenizer = read_config(directory, ConvnextConfig).tokenizer
    elif kind == "gan":
        from lst.vocoder.gan import GanConfig

        tokenizer = read_config(directory, GanConfig).tokenizer
    fingerprint = fingerprint_of(kind, {file: _digest(directory / file) for file in FILES[kind]}, waveform)
    return _Found(name, directory, kind, fingerprint, tokenizer, waveform)


def _kind(directory: Path) -> Kind:
    """What the files of a vocoder say it is; without a readable config, what reads it will say what is wrong."""
    if (directory / "generator.pt").is_file():
        return "hifigan"
    try:
        body = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "ridge"
    named = body.get("kind") if isinstance(body, dict) else None
    return next((kind for kind in ("exemplar", "convnext", "gan") if kind == named), "ridge")


def _digest(path: Path) -> str:
    state = path.stat()
    return _digest_of(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest_of(path: Path, size: int, mtime_ns: int) -> str:
    """The hash of a file in the state that its size and time tell, read once per process."""
    return sha256_file(path)
