"""Features -> a codebook: standardised, optionally projected on the directions that tell phones apart, then k-means.

1. The mean and deviation per dimension, over all frames.
2. A uniform random sample of at most `max_frames` frames, drawn while reading: memory does not grow with the corpus.
3. Mini-batch k-means (Sculley 2010) from k-means++ on the sample.
The same features, settings and seed give the same bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lst.constants import FRAME_RATE
from lst.errors import LstError
from lst.manifest import write_atomic

if TYPE_CHECKING:
    import numpy as np

    from lst.units.quantizers import KMeansQuantizer

Phones = Mapping[int, Sequence[str]]
"""Phones of some utterances, by the utterance's number: one per frame."""

LABELLED_FRAMES = 150_000
"""Frames with known phones that are kept, those that come first: 300 MB of 512 dimensions."""

FRAMES_PER_UNIT = 10
"""Fewer frames than this per unit are refused: such a codebook memorises its audio."""


@dataclass(frozen=True)
class Codebook:
    """`centroids`: (K, d) float32; `mean`, `std`: (D,) float32; `projection`: (D, d) float32 or None (then d = D)."""

    centroids: "np.ndarray"
    mean: "np.ndarray"
    std: "np.ndarray"
    projection: "np.ndarray | None" = None

    def quantizer(self) -> "KMeansQuantizer":
        """What gives the units."""
        from lst.units.quantizers import KMeansQuantizer

        return KMeansQuantizer(self.centroids, self.mean, self.std, self.projection)

    def project(self, features: "np.ndarray") -> "np.ndarray":
        """(T, D) -> (T, d) float64: where distances are measured."""
        import numpy as np

        standard: np.ndarray = (features - self.mean.astype(np.float64)) / self.std.astype(np.float64)
        return standard if self.projection is None else standard @ self.projection.astype(np.float64)

    def tensors(self) -> "dict[str, np.ndarray]":
        """Its parts by name."""
        import numpy as np

        parts = {"centroids": self.centroids, "mean": self.mean, "std": self.std, "projection": self.projection}
        # safetensors writes the bytes as they lie, in whatever order.
        return {name: np.ascontiguousarray(part) for name, part in parts.items() if part is not None}

    def save(self, path: Path) -> None:
        """As the safetensors file that `load_quantizer` reads."""
        from safetensors.numpy import save

        write_atomic(path, save(self.tensors()))


@dataclass(frozen=True)
class PredictionHead:
    """`weight`: (K, D) float32; `bias`: (K,) float32. The unit of a frame is the largest of `weight` x + `bias`."""

    weight: "np.ndarray"
    bias: "np.ndarray"

    def save(self, path: Path) -> None:
        """As the safetensors file that `load_quantizer` reads."""
        from safetensors.numpy import save

        write_atomic(path, save({"weight": self.weight, "bias": self.bias}))


@dataclass(frozen=True)
class Fitted:
    """A codebook, and what is known of its fit."""

    codebook: Codebook | PredictionHead
    frames_seen: int
    frames_fitted: int
    numbers: dict[str, float]


def fit(
    features: "Iterable[tuple[int, np.ndarray]]",
    units: int,
    seed: int,
    max_frames: int,
    *,
    source: object,
    phones: Phones | None = None,
    dimensions: int = 0,
) -> Fitted:
    """Fit `units` clusters on the features (T, D) of utterances that come with their numbers.

    With `phones` and `dimensions`, on that many discriminant directions. Raises LstError, naming `source`, if there is
    too little audio for so many units, or if it is silent or constant.
    """
    import numpy as np

    sample, labelled = read_features(features, max_frames, seed, phones)
    check_enough(sample, units, source)
    mean, std = sample.moments()
    projection = discriminants(labelled, mean, std, dimensions) if dimensions else None
    space = Codebook(np.zeros((0, 0)), mean.astype(np.float32), std.astype(np.float32), projection)
    standard = space.project(sample.frames()).astype(np.float32)
    centroids = fit_codebook(standard, units, seed)
    return Fitted(
        Codebook(centroids, space.mean, space.std, projection),
        sample.seen,
        len(standard),
        _numbers(standard, centroids),
    )


@dataclass
class Labelled:
    """Frames whose phone is known."""

    frames: "list[np.ndarray]"
    phones: list[str]


def read_features(
    features: "Iterable[tuple[int, np.ndarray]]", max_frames: int, seed: int, phones: Phones | None
) -> "tuple[FrameSample, Labelled]":
    """A sample of all frames, and up to `LABELLED_FRAMES` frames with their phones."""
    import numpy as np

    sample = FrameSample(max_frames, seed)
    labelled = Labelled([], [])
    for index, frames in features:
        sample.add(frames)
        if phones is not None and index in phones and len(labelled.phones) < LABELLED_FRAMES:
            length = min(len(frames), len(phones[index]))
            labelled.frames.append(frames[:length].astype(np.float32))
            labelled.phones.extend(phones[index][:length])
    return sample, labelled


def discriminants(labelled: Labelled, mean: "np.ndarray", std: "np.ndarray", dimensions: int) -> "np.ndarray":
    """(D, dimensions) float32 directions of standardised features that tell the phones apart."""
    import numpy as np

    from lst.units.lda import discriminant_directions

    known = np.concatenate([np.zeros((0, len(mean)), np.float32), *labelled.frames])
    known -= mean.astype(np.float32)
    known /= std.astype(np.float32)
    return discriminant_directions(known, np.array(labelled.phones), dimensions).astype(np.float32)


class FrameSample:
    """A uniform sample of frames from a stream of unknown length, and the moments of the whole stream.

    Every frame draws a random key, and the `capacity` frames with the smallest keys stay.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        import numpy as np

        self.capacity = capacity
        self.seen = 0
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._keys: list[np.ndarray] = []
        self._kept: list[np.ndarray] = []
        self._waiting = 0
        self._sum: Any = 0.0
        self._squares: Any = 0.0

    def add(self, frames: "np.ndarray") -> None:
        """(T, D) more frames."""
        self.seen += len(frames)
        self._sum = self._sum + frames.sum(axis=0, dtype="float64")
        self._squares = self._squares + (frames.astype("float64") ** 2).sum(axis=0)
        self._keys.append(self._random.random(len(frames)))
        self._kept.append(frames.astype("float32"))
        self._waiting += len(frames)
        if self._waiting > 2 * self.capacity:
            self._shrink()

    def frames(self) -> "np.ndarray":
        """(at most capacity, D) float32, in random order."""
        self._shrink()
        return self._kept[0]

    def moments(self) -> "tuple[np.ndarray, np.ndarray]":
        """Mean and standard deviation (D,) of all frames seen; deviations of zero become one."""
        import numpy as np

        mean = self._sum / self.seen
        variance = np.maximum(self._squares / self.seen - mean**2, 0)
        std = np.sqrt(variance)
        return mean, np.where(std > 1e-6, std, 1.0)

    def _shrink(self) -> None:
        import numpy as np

        keys, frames = np.concatenate(self._keys), np.concatenate(self._kept)
        order = np.argsort(keys, kind="stable")[: self.capacity]
        self._keys, self._kept, self._waiting = [keys[order]], [frames[order]], len(order)


def fit_codebook(frames: "np.ndarray", units: int, seed: int) -> "np.ndarray":
    """(N, D) standardised frames -> (units, D) float32 centroids."""
    import numpy as np
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    kmeans = MiniBatchKMeans(
        n_clusters=units, init="k-means++", n_init=3, batch_size=4096, max_iter=100, random_state=seed
    )
    with threadpool_limits(1):  # sums in another order would be another codebook
        kmeans.fit(frames)
    centroids: np.ndarray = kmeans.cluster_centers_.astype(np.float32)
    return centroids


def check_enough(sample: FrameSample, units: int, source: object) -> None:
    """Raises LstError unless the sample can carry so many clusters."""
    import numpy as np

    needed = units * FRAMES_PER_UNIT
    if sample.seen < needed:
        raise LstError(
            f"{source} has {sample.seen / FRAME_RATE:.0f} s of usable audio, too little for {units} clusters.",
            hint=f"Give at least {needed / FRAME_RATE:.0f} s, or ask for fewer with --units.",
        )
    frames = sample.frames()
    # Frames that differ have different projections, and sorting numbers is faster than sorting vectors.
    direction = np.random.Generator(np.random.PCG64(0)).standard_normal(frames.shape[1])
    different = len(np.unique((frames @ direction).round(6)))
    if different < units:
        raise LstError(
            f"{source} holds only {different} different frames, too few for {units} clusters: "
            "the audio is silent or constant.",
            hint="Check the recordings with a player, or leave the silent ones out.",
        )


def usage(codes: "np.ndarray", units: int) -> dict[str, float]:
    """How many of `units` occur among (N,) codes, and the perplexity of their shares."""
    import numpy as np

    share = np.bincount(codes, minlength=units) / len(codes)
    used = share[share > 0]
    return {"units_used": len(used), "perplexity": round(float(np.exp(-(used * np.log(used)).sum())), 1)}


def _numbers(standard: "np.ndarray", centroids: "np.ndarray") -> dict[str, float]:
    from lst.units.quantizers import KMeansQuantizer

    codes = KMeansQuantizer(centroids).codes(standard)
    spread = float(((standard - standard.mean(axis=0)) ** 2).mean())
    distortion = float(((standard - centroids[codes]) ** 2).mean())
    return {**usage(codes, len(centroids)), "variance_explained": round(1 - distortion / spread, 4)}
