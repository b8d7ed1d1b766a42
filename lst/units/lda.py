"""Linear discriminant analysis on phones: the directions in which features tell phones apart (Fisher 1936, Rao 1948).

Clusters in those directions follow the phone and not the voice. The labels come from a forced alignment of a part of
the training data; the analysis is a linear map, so a codebook carries it as one more matrix.
"""

from typing import TYPE_CHECKING, Any

from lst.errors import LstError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FRAMES_PER_PHONE = 50
"""Phones with fewer frames say nothing about their spread and are left out."""


def discriminant_directions(features: "NDArray[Any]", phones: "NDArray[Any]", dimensions: int) -> "NDArray[Any]":
    """(N, D) standardised features and (N,) labels -> (D, dimensions) float64 map; within-phone spread becomes 1.

    At most one dimension less than there are phones. Raises LstError if fewer than two phones have enough frames.
    """
    import numpy as np
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    values, index, counts = np.unique(phones, return_inverse=True, return_counts=True)
    kept = counts[index] >= FRAMES_PER_PHONE
    usable = int((counts >= FRAMES_PER_PHONE).sum())
    if usable < 2:
        raise LstError(
            f"Only {usable} of {len(values)} phones have {FRAMES_PER_PHONE} aligned frames; LDA needs at least two.",
            hint="Give more transcribed audio, or leave the LDA out.",
        )
    analysis = LinearDiscriminantAnalysis(solver="eigen", shrinkage=1e-3)
    analysis.fit(features[kept].astype(np.float64), phones[kept])
    directions: NDArray[Any] = analysis.scalings_[:, : min(dimensions, usable - 1)]
    return directions
