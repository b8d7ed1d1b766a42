"""A directory with `config.json` and `generator.pt` as a vocoder, checked before any weight is used.

Optional beside them: `speakers.txt` and `styles.txt` (a name per line, by id), and `card.json`, whose key `tokenizer`
may name the fingerprint of the tokenizer it was trained on. Checkpoints are read with `weights_only=True`: code in a
pickle is never run.
"""

import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lst.constants import SAMPLE_RATE, SAMPLES_PER_FRAME
from lst.errors import LstError, UsageError
from lst.vocoder.base import Float, Units, Vocoder, check_units, expected_samples, finish, pad_to

if TYPE_CHECKING:
    import torch

    from lst.vocoder.hifigan import Conditioning, GeneratorConfig, UnitGenerator

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "generator.pt"

BLOCK = 500
"""Units turned into sound at once (20 s); pieces overlap by the receptive field, so that the seams are exact."""


class HifiGanVocoder(Vocoder):
    """A unit HiFi-GAN with its speaker and style. `load_hifigan` makes one."""

    def __init__(
        self,
        name: str,
        fingerprint: str,
        tokenizer_fingerprint: str,
        generator: "UnitGenerator",
        *,
        speaker: int = 0,
        style: int = 0,
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.tokenizer_fingerprint = tokenizer_fingerprint
        self.generator = generator.eval()
        self.num_units = generator.config.num_embeddings
        self.speaker = speaker
        self.style = style

    def render(self, units: Units) -> Float:
        """(T,) ids -> (640 * T,) samples. Raises LstError if the generator wants more than units."""
        return self.render_with_codes(units)

    def render_with_codes(self, units: Units, f0_codes: Any = None, style_codes: Any = None) -> Float:
        """As `render`, for Spirit LM Expressive: pitch codes (one per 4 units) and style codes (one per 25 units)."""
        import torch

        config = self.generator.config
        f0 = self._per_unit(f0_codes, "pitch codes", config.num_f0_tokens, config.f0_rate_ratio, len(units))
        style = self._per_unit(style_codes, "style codes", config.num_style_tokens, config.style_rate_ratio, len(units))
        context = config.context_units
        out = np.empty(expected_samples(len(units)), np.float32)
        with torch.inference_mode():
            for start in range(0, len(units), BLOCK):
                stop = min(start + BLOCK, len(units))
                low, high = max(0, start - context), min(len(units), stop + context)
                given = self._conditioning(
                    None if f0 is None else f0[low:high], None if style is None else style[low:high]
                )
                wave = self.generator(torch.from_numpy(units[None, low:high]), given)[0].float().numpy()
                wave = pad_to(wave, expected_samples(high - low))[expected_samples(start - low) :]
                out[expected_samples(start) : expected_samples(stop)] = wave[: expected_samples(stop - start)]
        return out

    def synthesize_deduplicated(self, units: Any) -> Float:
        """For units whose repeats were removed: the duration predictor says how long each lasts.

        units: (T,) -> (640 * sum of durations,). Raises LstError if the checkpoint has no duration predictor.
        """
        import torch

        if not self.generator.config.duration_hidden:
            raise LstError(
                f"The vocoder {self.name} has no duration predictor.",
                hint="Give it units as the tokenizer makes them, repeats included.",
            )
        checked = check_units(units, self.num_units, self.name)
        once = checked[np.append(True, checked[1:] != checked[:-1])]
        with torch.inference_mode():
            durations = self.generator.durations(torch.from_numpy(once[None])).numpy()
        return finish(self.render(np.repeat(once, durations)))

    def _per_unit(self, codes: Any, what: str, size: int, ratio: int, count: int) -> Units | None:
        """Codes at the rate of the units: (T,), or None where the generator has no such table."""
        if not size:
            return None
        if codes is None:
            raise LstError(
                f"The vocoder {self.name} needs {what} beside the units (Spirit LM Expressive).",
                hint="Use one that takes units alone, such as the vocoder of Spirit LM Base.",
            )
        slow = check_units(codes, size, self.name)
        if not count <= len(slow) * ratio < count + 2 * ratio:
            raise LstError(f"{len(slow)} {what} do not fit {count} units at one per {ratio}.")
        return np.repeat(slow, ratio)[:count]

    def _conditioning(self, f0: Units | None, style_codes: Units | None) -> "Conditioning":
        import torch

        from lst.vocoder.hifigan import Conditioning

        config = self.generator.config
        return Conditioning(
            speaker=torch.tensor([self.speaker]) if config.num_speakers else None,
            style=torch.tensor([self.style]) if config.num_styles else None,
            f0_codes=None if f0 is None else torch.from_numpy(f0[None]),
            style_codes=None if style_codes is None else torch.from_numpy(style_codes[None]),
        )


def load_hifigan(
    directory: Path,
    name: str,
    fingerprint: str,
    tokenizer_fingerprint: str = "",
    *,
    speaker: str = "",
    style: str = "",
) -> HifiGanVocoder:
    """Read a unit HiFi-GAN. `speaker` and `style` are names from the tables, or numbers; default: the first.

    Raises LstError if the files are damaged, do not belong together, or make anything but 16 kHz from 25 units/s.
    """
    from lst.vocoder.hifigan import UnitGenerator

    body = _read_config(directory / CONFIG_FILE)
    state = _read_state(directory / WEIGHTS_FILE)
    config = _generator_config(body, state, directory)
    _check_rate(config, directory, name)
    if config.speaker_dim:
        raise LstError(
            f"The vocoder {name} takes the speaker as a vector from another model, not from a table.",
            hint="Use a checkpoint with one speaker or a table of speakers.",
        )
    generator = UnitGenerator(config)
    wrong = _mismatch(generator.state_dict(), state)
    if wrong:
        raise LstError(
            f"{directory / WEIGHTS_FILE} does not fit {directory / CONFIG_FILE}: {wrong}.",
            hint="Take both files from the same release.",
        )
    generator.load_state_dict(state)
    return HifiGanVocoder(
        name,
        fingerprint,
        tokenizer_fingerprint,
        generator,
        speaker=_choice(directory / "speakers.txt", speaker, config.num_speakers, "speaker"),
        style=_choice(directory / "styles.txt", style, config.num_styles, "style"),
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LstError(f"{path} cannot be read as JSON ({error}).", hint="Fetch the vocoder again.") from error
    if not isinstance(body, dict):
        raise LstError(f"{path} is not the configuration of a vocoder.", hint="Fetch the vocoder again.")
    return body


def _read_state(path: Path) -> dict[str, "torch.Tensor"]:
    """The generator's tensors, weight normalisation folded."""
    import torch

    from lst.vocoder.hifigan import fold_weight_norm

    try:
        body = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LstError(
            f"{path} is damaged, or holds more than tensors, which is not loaded because it could run code.",
            hint="Fetch it again from where it was published.",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise LstError(f"{path} is missing or damaged ({error}).", hint="Fetch the vocoder again.") from error
    state = body.get("generator", body) if isinstance(body, dict) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise LstError(f"{path} holds no generator.", hint='Its key "generator" should hold the weights.')
    return {key: value.float() for key, value in fold_weight_norm(state).items()}


def _generator_config(
    body: Mapping[str, Any], state: Mapping[str, "torch.Tensor"], directory: Path
) -> "GeneratorConfig":
    """The shapes: structure from `config.json`, sizes of tables from the weights (configs leave them to defaults)."""
    from lst.vocoder.hifigan import GeneratorConfig

    def rows(key: str) -> int:
        return int(state[key].shape[0]) if key in state else 0

    if body.get("f0") or body.get("f0_quant_num_bin"):
        raise LstError(
            f"The vocoder in {directory} needs an F0 contour beside the units.",
            hint="Use one that takes units alone.",
        )
    try:
        hop = int(body.get("code_hop_size", math.prod(body["upsample_rates"])))
        duration = body.get("dur_predictor_params") or {}
        return GeneratorConfig(
            num_embeddings=int(body["num_embeddings"]),
            embedding_dim=int(body["embedding_dim"]),
            model_in_dim=int(body.get("model_in_dim", 80)),
            upsample_rates=tuple(body["upsample_rates"]),
            upsample_kernel_sizes=tuple(body["upsample_kernel_sizes"]),
            upsample_initial_channel=int(body["upsample_initial_channel"]),
            resblock=str(body.get("resblock", "1")),
            resblock_kernel_sizes=tuple(body["resblock_kernel_sizes"]),
            resblock_dilation_sizes=tuple(tuple(item) for item in body["resblock_dilation_sizes"]),
            sampling_rate=int(body.get("sampling_rate", SAMPLE_RATE)),
            num_speakers=rows("spkr.weight") if body.get("multispkr") and not body.get("embedder_params") else 0,
            speaker_dim=int(body.get("embedder_dim", 256)) if body.get("embedder_params") else 0,
            num_styles=rows("style.weight") if body.get("multistyle") else 0,
            num_f0_tokens=int(body.get("num_f0_tokens") or 0),
            f0_rate_ratio=round(body["f0_hop_size"] / hop) if body.get("num_f0_tokens") else 1,
            num_style_tokens=int(body.get("num_style_tokens") or 0),
            style_rate_ratio=round(body["style_hop_size"] / hop) if body.get("num_style_tokens") else 1,
            duration_hidden=int(duration.get("var_pred_hidden_dim", 0)),
            duration_kernel=int(duration.get("var_pred_kernel_size", 3)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LstError(
            f"{directory / CONFIG_FILE} is not that of a unit HiFi-GAN ({type(error).__name__}: {error}).",
            hint="It should have num_embeddings, embedding_dim, upsample_rates and the resblock keys.",
        ) from error


def _check_rate(config: "GeneratorConfig", directory: Path, name: str) -> None:
    if config.hop != SAMPLES_PER_FRAME or config.sampling_rate != SAMPLE_RATE:
        per_second = config.sampling_rate / config.hop
        raise LstError(
            f"The vocoder {name} makes {config.sampling_rate} Hz from {per_second:g} units/s (upsample_rates "
            f"multiply to {config.hop}), but units of lst are 25 per second of 16000 Hz (640).",
            hint=f"{directory} was trained for another tokenizer: use one for 25 Hz units.",
        )


def _mismatch(expected: Mapping[str, "torch.Tensor"], given: Mapping[str, "torch.Tensor"]) -> str:
    """The first difference in names or shapes, in words; empty if there is none."""
    missing = sorted(set(expected) - set(given))
    if missing:
        return f"{len(missing)} weights are missing, such as {missing[0]}"
    unknown = sorted(set(given) - set(expected))
    if unknown:
        return f"{len(unknown)} weights have no place, such as {unknown[0]}"
    for key, value in expected.items():
        if value.shape != given[key].shape:
            return f"{key} is {tuple(given[key].shape)} instead of {tuple(value.shape)}"
    return ""


def _choice(table: Path, wanted: str, size: int, what: str) -> int:
    """The id of a speaker or style by name or number; 0 if none is asked for."""
    if not wanted:
        return 0
    if not size:
        raise UsageError(f"This vocoder has no {what} to choose.", hint=f"Leave out the {what}.")
    names = table.read_text(encoding="utf-8").split("\n") if table.is_file() else []
    names = [name.strip() for name in names if name.strip()]
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < size:
        return int(wanted)
    raise UsageError(
        f"There is no {what} {wanted!r}.",
        hint=f"Choose 0 to {size - 1}" + (f" or a name: {', '.join(names[:20])}." if names else "."),
    )
