"""HuBERT features (Hsu et al. 2021) on fairseq2's wav2vec 2.0 modules: the convolutions and the first k layers only.

One recording at a time, in one thread, without gradients: the features are a function of the samples and of nothing
else. The stem runs in place (half the memory of the plain forward pass, and a little faster).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import soundfile  # noqa: F401  (before fairseq2: its bundled libsndfile serves both)
import torch
from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig
from fairseq2.nn import BatchLayout, Linear
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from torch.nn.utils import remove_weight_norm

from lst.constants import SAMPLES_PER_FRAME
from lst.errors import LstError
from lst.units.checkpoints import HubertArchitecture, HubertCheckpoint, read_fairseq, read_huggingface
from lst.units.encoder_factory import EncoderFactory
from lst.units.spec import HubertSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_SAMPLES = 400
"""Shorter audio has no units (the published tokenizer skips it too)."""


class HubertEncoder:
    """Features after `layer` Transformer layers of a 25 Hz HuBERT.

    n samples give floor((n - 720) / 640) + 1 frames, the arithmetic of the unpadded convolutions. From 400 to 719
    samples zeros are appended up to 720: one frame. Below 400: none.
    """

    def __init__(self, checkpoint: HubertCheckpoint, layer: int, normalize: bool | None, device: str) -> None:
        self.dim = checkpoint.architecture.dim
        self.layer = layer
        self._receptive_field = receptive_field(checkpoint.architecture)
        self._normalize = checkpoint.normalize if normalize is None else normalize
        self._normalize_eps = checkpoint.normalize_eps
        self._device = torch.device(device)
        self._frontend, self._encoder = build(checkpoint, layer)
        self._frontend.to(self._device)
        self._encoder.to(self._device)

    def num_frames(self, num_samples: int) -> int:
        """Frames of so many samples."""
        if num_samples < MIN_SAMPLES:
            return 0
        return (max(num_samples, self._receptive_field) - self._receptive_field) // SAMPLES_PER_FRAME + 1

    def num_samples(self, num_frames: int) -> int:
        """640 (T - 1) + 720."""
        return (num_frames - 1) * SAMPLES_PER_FRAME + self._receptive_field

    def features(self, samples: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """(n,) -> (num_frames(n), dim) float32."""
        if self.num_frames(len(samples)) == 0:
            return np.zeros((0, self.dim), np.float32)
        with torch.inference_mode(), reproducible():
            waveform = torch.from_numpy(np.ascontiguousarray(samples)).to(self._device)
            if self._normalize:
                waveform = layer_norm(waveform, waveform.shape, eps=self._normalize_eps)
            missing = max(0, self._receptive_field - len(waveform))
            waveform = nn.functional.pad(waveform, (0, missing))
            features: NDArray[np.float32] = self._forward(waveform)[0].float().cpu().numpy()
        return features

    def _forward(self, waveform: Tensor) -> Tensor:
        """(n,) -> (1, T, dim)."""
        frontend = self._frontend
        hidden = waveform[None, None]
        for layer in frontend.feature_extractor.layers:
            hidden = layer.conv(hidden)
            if layer.group_norm is not None:
                hidden = layer.group_norm(hidden)
            if layer.layer_norm is not None:
                hidden = layer.layer_norm(hidden.transpose(1, 2)).transpose(1, 2)
            hidden = torch.ops.aten.gelu_(hidden)
        hidden = frontend.post_extract_layer_norm(hidden.transpose(1, 2))
        layout = BatchLayout.of(hidden)
        hidden, _ = frontend.process_features(hidden, layout)
        encoded: Tensor = self._encoder(hidden, layout)
        return encoded


def load_hubert(spec: HubertSpec, directory: Path, device: str) -> HubertEncoder:
    """The encoder that `spec` names. Raises LstError if a file is damaged, foreign, or not at 25 Hz."""
    weights = directory / spec.weights
    if spec.config is None:
        checkpoint = read_fairseq(weights)
    else:
        preprocessor = directory / spec.preprocessor if spec.preprocessor else None
        checkpoint = read_huggingface(weights, directory / spec.config, preprocessor)
    if spec.layer > checkpoint.architecture.layers:
        raise LstError(
            f"{weights} has {checkpoint.architecture.layers} layers, but the tokenizer asks for layer {spec.layer}.",
            hint="Correct `layer` in tokenizer.json, or the L in the name of the quantizer.",
        )
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise LstError("There is no CUDA device on this machine.", hint="Leave out --device cuda.")
    try:
        return HubertEncoder(checkpoint, spec.layer, spec.normalize, device)
    except RuntimeError as error:  # load_state_dict lists what is missing or of another shape, a line each
        reason = " ".join(str(error).split())
        raise LstError(
            f"{weights} does not fit its configuration: {reason[:300]}.", hint="Fetch the checkpoint again."
        ) from error


def receptive_field(architecture: HubertArchitecture) -> int:
    """Samples that one frame sees: 720 for HuBERT-base at 25 Hz, 400 at 50 Hz."""
    field, stride = 1, 1
    for _, kernel, step in architecture.conv_layers:
        field += (kernel - 1) * stride
        stride *= step
    return field


def build(checkpoint: HubertCheckpoint, layer: int) -> tuple[Any, Any]:
    """fairseq2's frontend and an encoder of `layer` layers, with the checkpoint's weights, in eval mode.

    Raises RuntimeError if weights are missing or of another shape.
    """
    architecture = checkpoint.architecture
    factory = _factory(architecture, layer)
    with torch.device("meta"):
        frontend, encoder = factory.create_encoder_frontend(), factory.create_encoder()
        if frontend.model_dim_proj is None and "frontend.model_dim_proj.weight" in checkpoint.weights:
            # Hugging Face projects even where both sides are of one size.
            frontend.model_dim_proj = Linear(architecture.conv_layers[-1][0], architecture.dim, bias=True)
    weights = dict(checkpoint.weights)
    if layer != checkpoint.final_norm_at:
        # Inner features of a norm-first network have no closing norm.
        weights.pop("encoder.layer_norm.weight", None)
        weights.pop("encoder.layer_norm.bias", None)
        encoder.register_module("layer_norm", None)
    for name, module in (("frontend", frontend), ("encoder", encoder)):
        mine = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        if name == "encoder":
            mine = {key: value for key, value in mine.items() if not _beyond(key, layer)}
        module.load_state_dict(mine, assign=True)
        module.eval().requires_grad_(False)
    remove_weight_norm(cast(Any, frontend.pos_encoder).conv)
    return frontend, encoder


def _factory(architecture: HubertArchitecture, layers: int) -> EncoderFactory:
    return EncoderFactory(
        Wav2Vec2EncoderConfig(
            model_dim=architecture.dim,
            feature_dim=architecture.conv_layers[-1][0],
            feature_extractor_layer_descs=list(architecture.conv_layers),
            feature_extractor_bias=architecture.conv_bias,
            feature_extractor_layer_norm_convs=architecture.conv_layer_norm,
            layer_norm_features=not architecture.norm_first,
            pos_conv_kernel_size=architecture.pos_kernel,
            num_pos_conv_groups=architecture.pos_groups,
            num_encoder_layers=layers,
            num_encoder_attn_heads=architecture.heads,
            ffn_inner_dim=architecture.ffn_dim,
            norm_order=TransformerNormOrder.PRE if architecture.norm_first else TransformerNormOrder.POST,
            dropout_p=0.0,
            attn_dropout_p=0.0,
            layer_drop_p=0.0,
        )
    )


BASE = HubertArchitecture(
    conv_layers=((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 3),
    conv_bias=False,
    conv_layer_norm=False,
    dim=768,
    layers=12,
    heads=12,
    ffn_dim=3072,
    pos_kernel=128,
    pos_groups=16,
    norm_first=False,
)
"""HuBERT-base with a stride of 640 samples, as the public 25 Hz tokenizers have it."""


def random_base(layer: int = 11) -> HubertEncoder:
    """HuBERT-base with random weights: what the speed of another encoder is compared with."""
    factory = _factory(BASE, layer)
    modules = {"frontend": factory.create_encoder_frontend(), "encoder": factory.create_encoder()}
    weights = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    checkpoint = HubertCheckpoint(BASE, weights, normalize=False, normalize_eps=1e-5, final_norm_at=None)
    return HubertEncoder(checkpoint, layer, None, "cpu")


def _beyond(key: str, layer: int) -> bool:
    """Whether a weight belongs to a layer that is not built."""
    parts = key.split(".")
    return parts[0] == "layers" and int(parts[1]) >= layer


@contextmanager
def reproducible() -> Iterator[None]:
    """One thread, and no reduced precision on a GPU: sums are then always taken in the same order and width."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(threads)
