"""Config, attention, patch encoder, global transformer, patch decoder, FLOPs.

Importing this package loads no torch: `LSTConfig` and `preset` are ready at once, the model when it is first used.
"""

from typing import TYPE_CHECKING, Any

from lst.model.config import LSTConfig, TransformerConfig
from lst.model.presets import PRESETS, preset

if TYPE_CHECKING:
    from lst.model.checkpoint import LoadedModel, load_model, write_weights
    from lst.model.init import build_model, initialise
    from lst.model.loss import LossOutput
    from lst.model.lst import LST

__all__ = [
    "LST",
    "PRESETS",
    "LSTConfig",
    "LoadedModel",
    "LossOutput",
    "TransformerConfig",
    "build_model",
    "initialise",
    "load_model",
    "preset",
    "write_weights",
]

_WITH_TORCH = {
    "LST": "lst.model.lst",
    "LossOutput": "lst.model.loss",
    "build_model": "lst.model.init",
    "initialise": "lst.model.init",
    "LoadedModel": "lst.model.checkpoint",
    "load_model": "lst.model.checkpoint",
    "write_weights": "lst.model.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WITH_TORCH[name]), name)
