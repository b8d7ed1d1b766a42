"""Features of a HuBERT with a log-mel front end (`lst.units.network`): one recording at a time, in one thread."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from lst.constants import SAMPLES_PER_FRAME
from lst.errors import LstError
from lst.units.hubert import reproducible
from lst.units.network import HubertNetwork, load_network
from lst.units.spec import FbankHubertSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FbankHubertEncoder:
    """n samples give ceil(n / 640) frames: every sample lies in exactly one; the last one is filled up with zeros."""

    def __init__(self, network: HubertNetwork, layer: int, device: str) -> None:
        self.dim = network.config.dim
        self.layer = layer
        self._device = torch.device(device)
        self.network = network.to(self._device)

    def num_frames(self, num_samples: int) -> int:
        """ceil(n / 640)."""
        return -(-num_samples // SAMPLES_PER_FRAME)

    def num_samples(self, num_frames: int) -> int:
        """640 per frame."""
        return num_frames * SAMPLES_PER_FRAME

    def features(self, samples: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """(n,) -> (ceil(n / 640), dim) float32."""
        frames = self.num_frames(len(samples))
        if frames == 0:
            return np.zeros((0, self.dim), np.float32)
        whole = np.zeros(frames * SAMPLES_PER_FRAME, np.float32)
        whole[: len(samples)] = samples
        with torch.inference_mode(), reproducible():
            found = self.network.features(torch.from_numpy(whole)[None].to(self._device), self.layer)
            features: NDArray[np.float32] = found[0].float().cpu().numpy()
        return features


def load_fbank_hubert(spec: FbankHubertSpec, directory: Path, device: str) -> FbankHubertEncoder:
    """The encoder that `spec` names. Raises LstError if its file is damaged, foreign, or has too few layers."""
    path = directory / spec.weights
    network = load_network(path)
    if spec.layer > network.config.layers:
        raise LstError(
            f"{path} has {network.config.layers} layers, but the tokenizer asks for layer {spec.layer}.",
            hint="Correct `layer` in tokenizer.json.",
        )
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise LstError("There is no CUDA device on this machine.", hint="Leave out --device cuda.")
    return FbankHubertEncoder(network, spec.layer, device)
