"""A small HuBERT (Hsu et al. 2021) on fairseq2's wav2vec 2.0 modules, with a log-mel front end, at 25 Hz.

    samples -> log-mel at 100 Hz -> four frames stacked -> projection -> (span masks) -> position convolution
            -> Transformer layers -> final projection -> cosine to the embeddings of the clusters

Log-mel energies in place of the seven convolutions make training about ten times cheaper on a CPU. As the energies
come normalised (`lst.units.logmel`), the layer norm on them is left out.
"""

import json
from pathlib import Path
from typing import Any

import soundfile  # noqa: F401  (before fairseq2: its bundled libsndfile serves both)
import torch
from fairseq2.models.transformer import AttentionBias, AttentionBiasCache, TorchSDPA, TransformerNormOrder
from fairseq2.models.wav2vec2 import StandardWav2Vec2Masker, Wav2Vec2EncoderConfig
from fairseq2.nn import BatchLayout
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from lst.constants import SAMPLES_PER_FRAME
from lst.errors import LstError
from lst.units.encoder_factory import EncoderFactory
from lst.units.hubert_config import NetworkConfig
from lst.units.logmel import HOP, LogMel

STACK = SAMPLES_PER_FRAME // HOP
"""Log-mel frames per unit."""
FORM = "lst.hubert/1"
METADATA = "lst"


class LocalBias(AttentionBias):
    """Attention to at most `reach` frames before and after: a frame does not depend on how long its audio is."""

    def __init__(self, reach: int) -> None:
        self.reach = reach

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalBias) and other.reach == self.reach

    def __hash__(self) -> int:
        return self.reach

    def create_bias_tensor(self, q_len: int, k_len: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """(q_len, k_len): 0 within reach, -inf beyond."""
        return torch.ones((q_len, k_len), device=device, dtype=dtype).tril(self.reach).triu(-self.reach).log()


class Detail(nn.Module):
    """(B, 4 T, bands) log-mel -> (B, T, 4 bands) what two convolutions over time and frequency find.

    The same filters at all frequencies: formants that are shifted look alike. It begins as nothing, so it can be added
    to a network that was trained without.
    """

    def __init__(self, bands: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.proj = nn.Linear(channels * -(-bands // STACK), STACK * bands)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, log_mel: Tensor) -> Tensor:
        """See the class."""
        found = functional.gelu(self.second(functional.gelu(self.first(log_mel[:, None]))))
        projected: Tensor = self.proj(found.transpose(1, 2).flatten(2))
        return projected


class HubertNetwork(nn.Module):
    """`features` for its users, `logits` for training."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        factory = EncoderFactory(
            Wav2Vec2EncoderConfig(
                model_dim=config.dim,
                feature_dim=STACK * config.mel_bands,
                use_fbank=True,
                num_fbank_channels=config.mel_bands,
                fbank_stride=STACK,
                sample_fbank_every_k=1,
                layer_norm_features=False,
                pos_conv_kernel_size=config.pos_kernel,
                num_pos_conv_groups=config.pos_groups,
                pos_encoder_depth=config.pos_depth,
                num_encoder_layers=config.layers,
                num_encoder_attn_heads=config.heads,
                ffn_inner_dim=config.ffn_dim,
                dropout_p=config.dropout,
                attn_dropout_p=0.0,
                layer_drop_p=0.0,
                norm_order=TransformerNormOrder.PRE,
            )
        )
        self.log_mel = LogMel(config.mel_bands, config.floor_db)
        self.detail = Detail(config.mel_bands, config.detail_channels) if config.detail_channels else None
        self.frontend = factory.create_encoder_frontend()
        self.frontend.post_extract_layer_norm = nn.Identity()  # type: ignore[assignment]
        self.encoder = factory.create_encoder()
        if config.reach:
            for layer in self.encoder.layers:
                layer.self_attn.sdpa = TorchSDPA(LocalBias(config.reach))  # type: ignore[union-attr]
        self.masker = StandardWav2Vec2Masker(config.dim, config.mask_span, config.mask_share, 1)
        self.final_proj = nn.Linear(config.dim, config.dim)
        self.label_embs = nn.Parameter(0.1 * torch.randn(config.clusters, config.dim))

    def features(
        self,
        samples: Tensor,
        layer: int | None = None,
        band_gain: Tensor | None = None,
        band_places: Tensor | None = None,
    ) -> Tensor:
        """(B, n) samples, n a multiple of 640 -> (B, n / 640, dim) after `layer` layers, counted from 1.

        Without `layer` (or with the last one): after the closing norm. `band_gain`, `band_places`: see `LogMel`.
        """
        hidden, layout = self._stacked(self.log_mel(samples, band_gain, band_places))
        hidden, _ = self.frontend.process_features(hidden, layout)
        return self._encode(hidden, layout, layer)

    def layers_of(self, log_mel: Tensor) -> list[Tensor]:
        """(B, 4 T, bands) as `LogMel` gives them -> (B, T, dim) after each layer; the last one is `features`."""
        hidden, layout = self._stacked(log_mel)
        hidden, _ = self.frontend.process_features(hidden, layout)
        found, cache = [], AttentionBiasCache()
        for block in self.encoder.layers:
            hidden = block(hidden, layout, cache)
            found.append(hidden)
        return [*found[:-1], self.encoder.layer_norm(hidden)]  # type: ignore[operator]

    def logits(
        self, samples: Tensor, band_gain: Tensor | None = None, band_places: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, n) -> (B, T, clusters) cosine logits with spans masked, and the mask (B, T). Others: see `LogMel`."""
        hidden, layout = self._stacked(self.log_mel(samples, band_gain, band_places))
        hidden, mask = self.frontend.process_features(hidden, layout, self.masker)
        assert mask is not None
        return self.predict(self._encode(hidden, layout, None)), mask

    def predict(self, features: Tensor) -> Tensor:
        """(…, dim) features of the last layer -> (…, clusters) logits: cosine over temperature."""
        projected = functional.normalize(self.final_proj(features).float(), dim=-1)
        return projected @ functional.normalize(self.label_embs.float(), dim=-1).T / self.config.temperature

    def _stacked(self, log_mel: Tensor) -> tuple[Tensor, BatchLayout]:
        hidden, layout, _ = self.frontend.extract_features(log_mel, BatchLayout.of(log_mel))
        if self.detail is not None:
            hidden = hidden + self.detail(log_mel)
        return hidden, layout

    def _encode(self, hidden: Tensor, layout: BatchLayout, layer: int | None) -> Tensor:
        if layer is None or layer == self.config.layers:
            encoded: Tensor = self.encoder(hidden, layout)
            return encoded
        cache = AttentionBiasCache()
        for block in list(self.encoder.layers)[:layer]:
            hidden = block(hidden, layout, cache)
        return hidden


def hubert_loss(logits: Tensor, targets: Tensor, mask: Tensor, unmasked_weight: float) -> Tensor:
    """Cross entropy in nats: mean over masked frames plus `unmasked_weight` times that over the others (section III-B).

    `logits`: (B, T, C); `targets`: (B, T) int64, negative where unknown; `mask`: (B, T) bool.
    """
    losses = functional.cross_entropy(logits.transpose(1, 2), targets.clamp(min=0), reduction="none")
    return _weighted(losses, targets >= 0, mask, unmasked_weight)


def phone_loss(logits: Tensor, phones: Tensor, mask: Tensor, unmasked_weight: float, cluster_phones: Tensor) -> Tensor:
    """As `hubert_loss`, of finding any cluster of the phone. `phones`: (B, T); `cluster_phones`: (C,) theirs."""
    losses = functional.nll_loss(
        phone_scores(logits, cluster_phones).transpose(1, 2), phones.clamp(min=0), reduction="none"
    )
    return _weighted(losses, phones >= 0, mask, unmasked_weight)


def phone_scores(logits: Tensor, cluster_phones: Tensor) -> Tensor:
    """(…, C) logits of clusters -> (…, phones) log probabilities of phones: the sum over the clusters of each."""
    members = functional.one_hot(cluster_phones).to(logits.dtype)
    return (logits.softmax(dim=-1) @ members).clamp(min=1e-8).log()


def _weighted(losses: Tensor, known: Tensor, mask: Tensor, unmasked_weight: float) -> Tensor:
    total = losses.new_zeros(())
    for chosen, weight in ((mask & known, 1.0), (~mask & known, unmasked_weight)):
        if weight:
            total = total + weight * losses[chosen].sum() / chosen.sum().clamp(min=1)
    return total


def save_network(path: Path, network: HubertNetwork, dtype: torch.dtype = torch.float32) -> None:
    """Weights and configuration in one safetensors file."""
    from safetensors.torch import save

    from lst.manifest import write_atomic

    weights = {name: value.detach().to("cpu", dtype).contiguous() for name, value in network.state_dict().items()}
    # One entry: several would be written in no fixed order.
    description = json.dumps({"form": FORM, "config": network.config.as_json()})
    write_atomic(path, save(weights, {METADATA: description}))


def load_network(path: Path) -> HubertNetwork:
    """The network in a file of `save_network`, in float32, for evaluation.

    Raises LstError if it is damaged or foreign.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, Any] = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise LstError(f"{path} is damaged: not a safetensors file ({error}).", hint="Fetch it again.") from error
    if metadata.get("form") != FORM:
        raise LstError(f"{path} is not a network of lst train-tokenizer (form {metadata.get('form')!r}).")
    try:
        network = HubertNetwork(NetworkConfig.model_validate(metadata["config"]))
        network.load_state_dict(weights)
    except (KeyError, ValueError, ValidationError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise LstError(f"{path} does not fit its configuration: {reason}.", hint="Fetch it again.") from error
    return network.eval().requires_grad_(False)
