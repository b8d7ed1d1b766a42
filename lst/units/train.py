"""The stage `train-tokenizer`: audio -> a tokenizer directory (card, codebook, `tokenizer.json`).

1. Features of every utterance; their mean and deviation per dimension, over all frames.
2. A uniform random sample of at most `max_frames` frames, drawn while reading: memory does not grow with the corpus.
3. Mini-batch k-means (Sculley 2010) from k-means++ on the standardised sample.
The same audio, settings and seed give the same bytes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lst.audio import AudioError
from lst.config import StageConfig
from lst.constants import FRAME_RATE
from lst.errors import LstError
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    Rejection,
    StageSpec,
    build_directory,
    iter_rows,
    sha256_file,
    write_atomic,
    write_json,
)
from lst.units.loading import tokenizer_fingerprint
from lst.units.spec import SPEC_FILE, TokenizerSpec
from lst.units.stage import row_chunks

if TYPE_CHECKING:
    import numpy as np

SCHEMA = "lst.tokenizer/1"
VERSION = 1

CODEBOOK_FILE = "codebook.safetensors"
FRAMES_PER_UNIT = 10
"""Fewer frames than this per unit are refused: such a codebook memorises its audio."""


class TrainTokenizerConfig(StageConfig):
    """How a tokenizer is fitted."""

    kind: Literal["mfcc"] = Field(default="mfcc", description="mfcc: MFCC-39 and k-means, HuBERT's first iteration.")
    units: int = Field(default=501, ge=2, le=501, description="Clusters; ids are 0 ... units - 1.")
    seed: int = Field(default=0, ge=0, description="Of the sample of frames and of k-means.")
    max_frames: int = Field(
        default=500_000, ge=1_000, description="Frames that k-means sees; 25 per second, 160 MB per 500,000."
    )
    name: str = Field(
        default="", pattern=r"^[\w.-]*$", description="What the tokenizer calls itself; empty: KIND-UNITS."
    )
    licence: str = Field(default="", description="Licence on the card; empty: those of the audio.")


def train_tokenizer_spec(audio: Manifest, config: TrainTokenizerConfig) -> StageSpec:
    """What `train_tokenizer` would make."""
    return StageSpec(
        schema=SCHEMA,
        stage="train-tokenizer",
        version=VERSION,
        config=config.as_json(),
        inputs={"audio": audio},
        provenance=audio.provenance,
    )


def train_tokenizer(
    audio: Manifest,
    out: Path,
    config: TrainTokenizerConfig,
    *,
    progress: Progress | None = None,
    force: bool = False,
) -> Manifest:
    """Fit a tokenizer on `audio`; `out` then works as `--tokenizer`.

    Raises LstError if there is too little audio for the units asked for, or if it is silent.
    """
    spec = train_tokenizer_spec(audio, config)

    def make(directory: Path) -> DirectoryResult:
        sample = FrameSample(config.max_frames, config.seed)
        rejected: list[Rejection] = []
        for features in _features(audio, rejected, progress):
            sample.add(features)
        _check_enough(audio, sample, config.units)
        mean, std = sample.moments()
        frames = sample.frames()
        standard = ((frames - mean) / std).astype("float32")
        centroids = fit_codebook(standard, config.units, config.seed)
        _save_codebook(directory / CODEBOOK_FILE, centroids, mean, std)
        return _describe(directory, audio, config, sample, standard, centroids, rejected)

    return build_directory(out, spec, make, force=force)


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


def _features(audio: Manifest, rejected: list[Rejection], progress: Progress | None) -> Iterator["np.ndarray"]:
    """Features of the utterances that can be read, in order; long ones come in pieces."""
    from lst.units.mfcc import MfccEncoder

    encoder = MfccEncoder()
    for done, row in enumerate(iter_rows(audio)):
        if progress is not None:
            progress(done, audio.rows, "utterances")
        try:
            for chunk in row_chunks(audio, row):
                yield encoder.features(chunk)
        except AudioError as error:
            rejected.append(Rejection(row["id"], error.reason, str(error)))
    if progress is not None:
        progress(audio.rows, audio.rows, "utterances")


def _check_enough(audio: Manifest, sample: FrameSample, units: int) -> None:
    import numpy as np

    needed = units * FRAMES_PER_UNIT
    if sample.seen < needed:
        raise LstError(
            f"{audio.path} has {sample.seen / FRAME_RATE:.0f} s of usable audio, too little for {units} clusters.",
            hint=f"Give at least {needed / FRAME_RATE:.0f} s, or ask for fewer with --units.",
        )
    frames = sample.frames()
    # Frames that differ have different projections, and sorting numbers is faster than sorting vectors.
    direction = np.random.Generator(np.random.PCG64(0)).standard_normal(frames.shape[1])
    different = len(np.unique((frames @ direction).round(6)))
    if different < units:
        raise LstError(
            f"{audio.path} holds only {different} different frames, too few for {units} clusters: "
            "the audio is silent or constant.",
            hint="Check the recordings with a player, or leave the silent ones out.",
        )


def _save_codebook(path: Path, centroids: "np.ndarray", mean: "np.ndarray", std: "np.ndarray") -> None:
    import numpy as np
    from safetensors.numpy import save

    write_atomic(path, save({"centroids": centroids, "mean": mean.astype(np.float32), "std": std.astype(np.float32)}))


def _describe(
    directory: Path,
    audio: Manifest,
    config: TrainTokenizerConfig,
    sample: FrameSample,
    standard: "np.ndarray",
    centroids: "np.ndarray",
    rejected: list[Rejection],
) -> DirectoryResult:
    """Write `tokenizer.json` and `card.json` beside the codebook."""
    import numpy as np

    from lst.units.quantizers import KMeansQuantizer

    name = config.name or f"{config.kind}-{config.units}"
    parts = {"name": name, "encoder": {"kind": config.kind}, "quantizer": {"weights": CODEBOOK_FILE}}
    spec = TokenizerSpec.model_validate(parts)
    write_json(directory / SPEC_FILE, spec.model_dump(mode="json"))
    codes = KMeansQuantizer(centroids).codes(standard)
    share = np.bincount(codes, minlength=config.units) / len(codes)
    used = share[share > 0]
    distortion = float(((standard - centroids[codes]) ** 2).mean())
    hours = sample.seen / FRAME_RATE / 3600  # (a last frame counts whole)
    files = {
        file: {"sha256": sha256_file(directory / file), "bytes": (directory / file).stat().st_size}
        for file in (SPEC_FILE, CODEBOOK_FILE)
    }
    fingerprint = tokenizer_fingerprint(directory)
    licences = sorted({entry.get("licence", "") for entry in audio.provenance} - {""})
    card = {
        "name": name,
        "kind": "tokenizer",
        "version": "1",
        "licence": config.licence or "; ".join(licences) or "not stated",
        "source": "fitted by lst train-tokenizer",
        "description": (
            f"{config.units} units at {FRAME_RATE} Hz: k-means on MFCC-39, the targets of HuBERT's first iteration. "
            "Its units follow the sound, the voice included, more than the phone: take a HuBERT wherever there is one."
        ),
        "files": files,
        "fingerprint": fingerprint,
        "data": audio.provenance,
        "hours": round(hours, 3),
        "frames": {"seen": sample.seen, "fitted": len(standard)},
        "seed": config.seed,
        "numbers": {
            "units_used": len(used),
            "perplexity": round(float(np.exp(-(used * np.log(used)).sum())), 1),
            "variance_explained": round(1 - distortion, 4),
        },
    }
    write_json(directory / "card.json", card)
    return DirectoryResult(
        artifacts=["card.json", SPEC_FILE, CODEBOOK_FILE],
        totals={"hours": hours, "units": config.units},
        rejected=rejected,
        fingerprints={"tokenizer": fingerprint},
    )
