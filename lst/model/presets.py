"""Named shapes, each as LST and as two base models.

`1.1b` is the paper's 1B (encoder 1 x 1024, global 25 x 2048, decoder 9 x 1024). The paper names the other sizes of its
ladder without their dimensions; theirs are chosen so that the global transformer, which the base model shares, holds
about the parameters in the name. `7b` follows the Byte Latent Transformer's 8B. `nano`, `mini` and `micro` are for
CPUs: a deep global part and thin local modules.
"""

from typing import Literal, get_args

from lst.config import StageConfig
from lst.data.patching import PatchingConfig
from lst.errors import UsageError
from lst.model.config import LSTConfig, TransformerConfig

LOCAL_WINDOW = 512
LOCAL_THETA = 1e4

Base = Literal["same-global", "matched"]
"""same-global: the base model has LST's global transformer (the paper's comparison). matched: it has as many layers as
make its FLOPs per sequence unit those of LST, local modules included (the fair one)."""


class _Shape(StageConfig):
    global_layers: int
    global_dim: int
    global_heads: int
    local_dim: int
    local_heads: int
    decoder_layers: int
    encoder_layers: int = 1
    ffn_multiple: float = 8 / 3


_SHAPES: dict[str, _Shape] = {
    "nano": _Shape(global_layers=6, global_dim=192, global_heads=6, local_dim=96, local_heads=3, decoder_layers=1),
    "mini": _Shape(global_layers=8, global_dim=192, global_heads=6, local_dim=96, local_heads=3, decoder_layers=1),
    "micro": _Shape(global_layers=10, global_dim=512, global_heads=8, local_dim=256, local_heads=4, decoder_layers=2),
    "420m": _Shape(global_layers=21, global_dim=1280, global_heads=10, local_dim=768, local_heads=12, decoder_layers=7),
    "630m": _Shape(global_layers=22, global_dim=1536, global_heads=12, local_dim=768, local_heads=12, decoder_layers=7),
    "810m": _Shape(global_layers=21, global_dim=1792, global_heads=14, local_dim=896, local_heads=14, decoder_layers=8),
    "1.1b": _Shape(
        global_layers=25, global_dim=2048, global_heads=16, local_dim=1024, local_heads=16, decoder_layers=9
    ),
    "1.4b": _Shape(
        global_layers=28, global_dim=2048, global_heads=16, local_dim=1024, local_heads=16, decoder_layers=9
    ),
    "1.8b": _Shape(
        global_layers=28, global_dim=2304, global_heads=18, local_dim=1024, local_heads=16, decoder_layers=9
    ),
    "7b": _Shape(global_layers=32, global_dim=4096, global_heads=32, local_dim=1280, local_heads=20, decoder_layers=6),
}

PRESETS = tuple(_SHAPES)
"""The names `preset` knows, small to large."""


def preset(
    name: str,
    *,
    text_size: int,
    num_units: int = 501,
    patching: PatchingConfig | None = None,
    base: Base | None = None,
) -> LSTConfig:
    """The configuration of preset `name` for a vocabulary.

    `patching`: how LST is trained (default: static, 4 units). With mode none or bpe, or with `base`, the result is a
    base SpeechLLM; `base` also says which (default same-global), and then `patching` is what the LST beside it uses.
    Raises `UsageError` for an unknown name.
    """
    if name not in _SHAPES:
        raise UsageError(f"There is no preset '{name}'.", hint=f"Presets: {', '.join(PRESETS)}.")
    if base is not None and base not in get_args(Base):
        raise UsageError(f"There is no base variant '{base}'.", hint=f"Variants: {', '.join(get_args(Base))}.")
    shape = _SHAPES[name]
    patching = patching if patching is not None else PatchingConfig(mode="static")
    wide = TransformerConfig(
        layers=shape.global_layers,
        dim=shape.global_dim,
        heads=shape.global_heads,
        ffn_multiple=shape.ffn_multiple,
    )
    if base is None and patching.mode not in ("none", "bpe"):
        return _with_local(name, shape, wide, text_size, num_units, patching)

    plain = patching if patching.mode in ("none", "bpe") else PatchingConfig(mode="none")
    config = LSTConfig(
        name=f"{name}-base", text_size=text_size, num_units=num_units, patching=plain, global_transformer=wide
    )
    if base != "matched":
        return config
    from lst.model.flops import match_flops

    patched = PatchingConfig(mode="static") if patching.mode in ("none", "bpe") else patching
    matched = match_flops(config, _with_local(name, shape, wide, text_size, num_units, patched))
    return matched.model_copy(update={"name": f"{name}-base-matched"})


def _with_local(
    name: str, shape: _Shape, wide: TransformerConfig, text_size: int, num_units: int, patching: PatchingConfig
) -> LSTConfig:
    def local(layers: int) -> TransformerConfig:
        return TransformerConfig(
            layers=layers,
            dim=shape.local_dim,
            heads=shape.local_heads,
            ffn_multiple=shape.ffn_multiple,
            window=LOCAL_WINDOW,
            rope_theta=LOCAL_THETA,
        )

    return LSTConfig(
        name=name,
        text_size=text_size,
        num_units=num_units,
        patching=patching,
        encoder=local(shape.encoder_layers),
        global_transformer=wide,
        decoder=local(shape.decoder_layers),
    )
