"""The clusters that a HuBERT learns to predict: of a teacher's features, and where speech is transcribed, its phones.

Where an utterance was aligned with its text, its phones are known better than any features tell. With a `phone_weight`
w, k-means sees the features with w at the place of the frame's phone appended: frames of different phones lie
2 w^2 apart, so clusters become variants of one phone. A frame without a known phone goes to the nearest cluster by its
features alone. Distances in the joint space are those of the features plus a cost of (phone, cluster), which is kept.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lst.manifest import write_atomic
from lst.units.codebooks import Codebook, Phones, check_enough, discriminants, fit, fit_codebook, read_features
from lst.units.quantizers import BLOCK

SILENCE = "SIL"
OUT_OF_REACH = 1e4
"""In every direction: so far that no frame is near."""


@dataclass(frozen=True)
class TargetClusters:
    """`costs`: (phones, K) squared distances of each phone of `phones` to each cluster, or none."""

    codebook: Codebook
    phones: Sequence[str] = ()
    costs: "np.ndarray | None" = None

    def codes(self, features: "np.ndarray", phones: Sequence[str] | None = None) -> "np.ndarray":
        """(T, D) features and the phones of the same frames, if they are known -> (T,) int64 clusters."""
        if phones is None or self.costs is None:
            return self.codebook.quantizer().codes(features)
        place = {phone: index for index, phone in enumerate(self.phones)}
        costs = np.vstack([self.costs, np.zeros(len(self.codebook.centroids))])
        known = np.array([place.get(phone, -1) for phone in phones[: len(features)]])
        blocks = []
        for start in range(0, len(known), BLOCK):
            projected = self.codebook.project(features[start : start + BLOCK][: len(known) - start])
            centroids = self.codebook.centroids.astype(np.float64)
            scores = projected @ centroids.T - 0.5 * (centroids**2).sum(axis=1)
            blocks.append((scores - 0.5 * costs[known[start : start + BLOCK]]).argmax(axis=1))
        return np.concatenate([*blocks, np.zeros(0, np.int64)])

    def cluster_phones(self) -> "np.ndarray | None":
        """(K,) the place in `phones` of each cluster's phone, if phones were clustered too."""
        return None if self.costs is None else self.costs.argmin(axis=0)

    def joined(self, phone: str, count: int) -> "TargetClusters":
        """With at most `count` clusters of `phone`: the others move out of reach, and the nearest take their frames.

        For silence, which has many frames and nothing to tell apart.
        """
        from sklearn.cluster import KMeans

        groups = self.cluster_phones()
        if groups is None or phone not in self.phones:
            return self
        own = np.flatnonzero(groups == self.phones.index(phone))
        if len(own) <= count:
            return self
        points = self.codebook.centroids[own]
        centres = KMeans(count, n_init=4, random_state=0).fit(points).cluster_centers_
        kept = own[((points[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=0)]
        centroids = self.codebook.centroids.copy()
        centroids[np.setdiff1d(own, kept)] = OUT_OF_REACH
        return replace(self, codebook=replace(self.codebook, centroids=centroids))

    def save(self, path: Path) -> None:
        """As safetensors: those of the codebook, `phone_costs`, and the names in the metadata."""
        from safetensors.numpy import save

        tensors = self.codebook.tensors()
        if self.costs is not None:
            tensors["phone_costs"] = self.costs.astype(np.float32)
        write_atomic(path, save(tensors, {"phones": json.dumps(list(self.phones))}))


def load_targets(path: Path) -> TargetClusters:
    """What `TargetClusters.save` wrote."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        phones = json.loads(file.metadata()["phones"])
    costs = tensors.pop("phone_costs", None)
    return TargetClusters(Codebook(**tensors), phones, costs)


def fit_targets(
    features: "Iterable[tuple[int, np.ndarray]]",
    units: int,
    seed: int,
    max_frames: int,
    *,
    source: object,
    phones: Phones | None = None,
    dimensions: int = 0,
    phone_weight: float = 0.0,
    silence_clusters: int = 0,
) -> TargetClusters:
    """As `lst.units.codebooks.fit`; with a `phone_weight`, clusters of features and phones together.

    Of these at most `silence_clusters` of silence, if it is not 0.
    """
    if phones is None or not phone_weight:
        plain = fit(features, units, seed, max_frames, source=source, phones=phones, dimensions=dimensions).codebook
        assert isinstance(plain, Codebook)
        return TargetClusters(plain)
    sample, labelled = read_features(features, max_frames, seed, phones)
    check_enough(sample, units, source)
    mean, std = sample.moments()
    projection = discriminants(labelled, mean, std, dimensions) if dimensions else None
    space = Codebook(np.zeros((0, 0)), mean.astype(np.float32), std.astype(np.float32), projection)
    names = sorted(set(labelled.phones))
    places = np.array([names.index(phone) for phone in labelled.phones])
    corners = (np.eye(len(names)) * phone_weight).astype(np.float32)
    frames = space.project(np.concatenate(labelled.frames)).astype(np.float32)
    width = frames.shape[1]
    centroids = fit_codebook(np.concatenate([frames, corners[places]], axis=1), units, seed)
    costs = ((corners[:, None] - centroids[None, :, width:]) ** 2).sum(axis=2)
    codebook = Codebook(np.ascontiguousarray(centroids[:, :width]), space.mean, space.std, projection)
    clusters = TargetClusters(codebook, names, costs)
    return clusters.joined(SILENCE, silence_clusters) if silence_clusters else clusters
