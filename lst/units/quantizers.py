"""Features to units: nearest centroid, or Spirit LM's linear layers. In numpy and float64.

A unit is an argmin over distances (or an argmax over logits), so it is only as stable as their rounding: float64 puts
that at 1e-15, and a frame's unit then depends on the frame alone, not on how many are quantized with it. What remains
is the rounding of the features (float32 for HuBERT): a frame that lies within 1e-6 of a border may fall on either side
on another processor.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lst.errors import LstError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 8192
"""Frames quantized at a time: bounds memory at 33 MB for 501 units."""

LEAKY_SLOPE = 0.01


class KMeansQuantizer:
    """Nearest centroid in Euclidean distance, after what the codebook does to a frame: standardise, then project.

    `centroids`: (K, d); `mean` and `std`: (D,); `projection`: (D, d), without it d = D. The lowest id wins a tie. No
    blank.
    """

    blank: int | None = None

    def __init__(
        self,
        centroids: "NDArray[Any]",
        mean: "NDArray[Any] | None" = None,
        std: "NDArray[Any] | None" = None,
        projection: "NDArray[Any] | None" = None,
    ) -> None:
        self.num_units = len(centroids)
        self.dim = centroids.shape[1] if projection is None else len(projection)
        self._projection = None if projection is None else projection.astype(np.float64)
        self._centroids = centroids.astype(np.float64)
        self._half_norms = 0.5 * (self._centroids**2).sum(axis=1)
        self._mean = np.zeros(self.dim) if mean is None else mean.astype(np.float64)
        self._scale = np.ones(self.dim) if std is None else 1 / std.astype(np.float64)

    def codes(self, features: "NDArray[Any]") -> "NDArray[np.int64]":
        """(T, D) -> (T,)."""
        blocks = [self._nearest(features[start : start + BLOCK]) for start in range(0, len(features), BLOCK)]
        return np.concatenate([*blocks, np.zeros(0, np.int64)])

    def _nearest(self, features: "NDArray[Any]") -> "NDArray[np.int64]":
        standard = (features - self._mean) * self._scale
        if self._projection is not None:
            standard = standard @ self._projection
        # |x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2), and |x|^2 is the same for all c.
        nearest: NDArray[np.int64] = (standard @ self._centroids.T - self._half_norms).argmax(axis=1)
        return nearest


class LinearQuantizer:
    """Linear layers with LeakyReLU between, then argmax.

    `layers`: pairs of weight (out, in) and bias (out,). Spirit LM's has three, and its last id is a CTC `blank`, which
    means "as before"; one layer without a blank is the prediction head of a HuBERT.
    """

    def __init__(self, layers: "list[tuple[NDArray[Any], NDArray[Any]]]", *, blank: bool = True) -> None:
        self._layers = [(weight.astype(np.float64), bias.astype(np.float64)) for weight, bias in layers]
        self.dim = int(layers[0][0].shape[1])
        self.num_units = len(layers[-1][1])
        self.blank: int | None = self.num_units - 1 if blank else None

    def codes(self, features: "NDArray[Any]") -> "NDArray[np.int64]":
        """(T, D) -> (T,), blanks included."""
        hidden = features.astype(np.float64)
        for index, (weight, bias) in enumerate(self._layers):
            if index:
                hidden = np.where(hidden > 0, hidden, LEAKY_SLOPE * hidden)
            hidden = hidden @ weight.T + bias
        best: NDArray[np.int64] = hidden.argmax(axis=1)
        return best


def load_quantizer(path: Path) -> KMeansQuantizer | LinearQuantizer:
    """Read a quantizer; the contents of the file decide which.

    - `.safetensors` with `centroids` (K, d) and optionally `mean`, `std` (D,), `projection` (D, d): what
      `lst train-tokenizer` writes; or with `weight` (K, D) and `bias` (K,), the unit being the largest of `weight` x +
      `bias`;
    - `.npy` with (K, D) centroids;
    - a torch file with `cluster_centers` (K, D) and `n_clusters`;
    - a torch file with `model_cfg` {vocab_size, dim, upstream_dim} and `model_weight`: Spirit LM's linear quantizer.

    Raises LstError for anything else; pickled programs are never run.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(str(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise LstError(f"{path} is damaged: not a safetensors file ({error}).") from error
        if "weight" in tensors:
            return _predicted(path, tensors["weight"], tensors.get("bias"))
        return _kmeans(path, *(tensors.get(name) for name in ("centroids", "mean", "std", "projection")))
    if path.suffix == ".npy":
        try:
            return _kmeans(path, np.load(path, allow_pickle=False))
        except (ValueError, EOFError) as error:
            raise LstError(f"{path} is damaged or not a plain array ({error}).") from error
    return _from_torch(path)


def _from_torch(path: Path) -> KMeansQuantizer | LinearQuantizer:
    from lst.units.checkpoints import load_torch_file

    hint = (
        "If it is a scikit-learn model, save its centroids once, where you trust the file: "
        "numpy.save('L11_km500.npy', joblib.load('model.bin').cluster_centers_)."
    )
    content = load_torch_file(path, hint=hint)
    if isinstance(content, dict) and "cluster_centers" in content:
        centroids = np.asarray(content["cluster_centers"])
        expected = int(content.get("n_clusters", len(centroids)))
        if expected != len(centroids):
            raise LstError(f"{path} says {expected} clusters, but holds {len(centroids)} centroids.")
        return _kmeans(path, centroids)
    if isinstance(content, dict) and "model_weight" in content and "model_cfg" in content:
        return _linear(path, content["model_cfg"], content["model_weight"])
    raise LstError(f"{path} is neither a k-means codebook nor a linear quantizer.", hint=hint)


def _kmeans(
    path: Path,
    centroids: "NDArray[Any] | None",
    mean: "NDArray[Any] | None" = None,
    std: "NDArray[Any] | None" = None,
    projection: "NDArray[Any] | None" = None,
) -> KMeansQuantizer:
    if centroids is None or centroids.ndim != 2 or not np.issubdtype(centroids.dtype, np.floating):
        raise LstError(f"{path} holds no codebook: `centroids` should be floats of shape (clusters, dimensions).")
    if projection is not None and (projection.ndim != 2 or projection.shape[1] != centroids.shape[1]):
        raise LstError(f"{path}: `projection` has shape {projection.shape}, but the centroids {centroids.shape}.")
    width = centroids.shape[1:] if projection is None else projection.shape[:1]
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and values.shape != width:
            raise LstError(f"{path}: `{name}` has shape {values.shape}, but the features have {width[0]} dimensions.")
    parts = [part for part in (centroids, mean, std, projection) if part is not None]
    if not all(np.isfinite(part).all() for part in parts) or (std is not None and (std <= 0).any()):
        raise LstError(f"{path}: the codebook holds values that are not finite, or a standard deviation of zero.")
    return KMeansQuantizer(centroids, mean, std, projection)


def _predicted(path: Path, weight: "NDArray[Any]", bias: "NDArray[Any] | None") -> LinearQuantizer:
    if bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise LstError(f"{path} holds no prediction head: `weight` should be (units, dimensions) and `bias` (units,).")
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise LstError(f"{path}: the prediction head holds values that are not finite.")
    return LinearQuantizer([(weight, bias)], blank=False)


def _linear(path: Path, config: Any, weights: Any) -> LinearQuantizer:
    """Check the widths: dim -> dim - m//4 -> dim - m//2 -> vocab + 1, where m = upstream_dim - (vocab + 1)."""
    try:
        out = int(config["vocab_size"]) + 1
        dim, middle = int(config["dim"]), int(config["upstream_dim"]) - out
        layers = [(np.asarray(weights[f"{i}.weight"]), np.asarray(weights[f"{i}.bias"])) for i in (0, 2, 4)]
    except (KeyError, TypeError, ValueError) as error:
        raise LstError(f"{path} is not a linear quantizer of Spirit LM ({error} is missing or wrong).") from error
    widths = [dim, dim - middle // 4, dim - middle // 2, out]
    for (weight, bias), fan_in, fan_out in zip(layers, widths[:-1], widths[1:], strict=True):
        if weight.shape != (fan_out, fan_in) or bias.shape != (fan_out,):
            raise LstError(f"{path}: a layer has shape {weight.shape}, its model_cfg asks for {(fan_out, fan_in)}.")
    return LinearQuantizer(layers)
