"""`lst eval words`: do recordings of one word get the same patch embedding? (paper: Figure 5)

Each occurrence of a frequent word is one vector: the patch encoder's output for the patch that is the word. A model
that knows static patches only gets the mean over the patches that the word touches. Reported are

    within, between   mean cosine of two occurrences of the same word, of different words
    silhouette        of the words as clusters, by cosine: 1 apart, 0 mixed
    floor             the same of the bare units (how often each occurs in the word): what needs no model

and a t-SNE figure. All embeddings of a network point in similar directions, which lifts both cosines: `centred` gives
them with the mean vector taken out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lst.config import StageConfig
from lst.data.patching import Example, PatchKind, patch_span
from lst.errors import LstError
from lst.evaluate.report import words_markdown
from lst.evaluate.stage import eval_spec, write_result
from lst.evaluate.words import simple_normalise
from lst.generate.session import Session, open_session
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    StageSpec,
    build_directory,
    iter_rows,
    sha256_bytes,
)

FIGURE_FILE = "words.png"
POINTS_FILE = "words.parquet"
BATCH = 16
MIN_FRAMES = 3
"""Shorter words are mostly their neighbours."""
PERPLEXITY = 30.0

Float = NDArray[np.float64]


class WordsConfig(StageConfig):
    """Which words are compared."""

    words: int = Field(20, ge=2, description="most frequent words that have enough occurrences")
    occurrences: int = Field(30, ge=2, description="of each word at most, chosen by a hash of seed and place")
    least: int = Field(5, ge=2, description="occurrences that a word must have")
    min_letters: int = Field(3, ge=1, description="letters of the shortest word: the and a are said in many ways")
    patching: Literal["auto", "aligned", "static"] = Field(
        "auto", description="aligned: a word is a patch; static: as at inference; auto: aligned if it was trained so"
    )
    seed: int = Field(0, ge=0, description="of the choice of occurrences and of t-SNE")


def words_spec(model: Manifest, data: Manifest, config: WordsConfig) -> StageSpec:
    """What `evaluate_words` would make."""
    return eval_spec("eval-words", {"model": model, "data": data}, config)


def evaluate_words(
    model: Manifest,
    data: Manifest,
    out: Path,
    config: WordsConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    device: str = "cpu",
) -> Manifest:
    """Embed words of `data` (aligned speech or pairs) and write `lst.eval/1` with a figure to `out`.

    Raises LstError if the units are another tokenizer's, if the model has no patches, or if no two words are frequent
    enough.
    """

    def make(directory: Path) -> DirectoryResult:
        session = open_session(model.path, device=device)
        session.check_manifest(data, "The data")
        summary, points = measure_words(session, data, config, progress=progress)
        _write_points(directory / POINTS_FILE, points)
        _draw(directory / FIGURE_FILE, points, summary)
        return write_result(directory, summary, words_markdown(summary), [FIGURE_FILE, POINTS_FILE])

    return build_directory(out, words_spec(model, data, config), make, force=force)


@dataclass(frozen=True)
class _Place:
    """An occurrence: units of its utterance, all word boundaries there, and which word it is."""

    word: str
    row: str
    units: NDArray[np.uint16]
    starts: NDArray[np.int32]
    ends: NDArray[np.int32]
    index: int


@dataclass(frozen=True)
class Points:
    """Occurrences (n,), their embeddings (n, d), and where t-SNE puts them (n, 2)."""

    words: list[str]
    rows: list[str]
    embeddings: Float
    flat: Float


def measure_words(
    session: Session, data: Manifest, config: WordsConfig, *, progress: Progress | None = None
) -> tuple[dict[str, Any], Points]:
    """The summary and the points."""
    if session.model.encoder is None or session.unit_bpe is not None:
        raise LstError(f"{session.directory} has no patches: its words have no patch embeddings.")
    trained = session.loaded.config.patching.needs_alignment or _trained_aligned(session)
    kind: PatchKind = "static"
    if config.patching == "aligned" or (config.patching == "auto" and trained):
        kind = "aligned"
    places = _places(data, config)
    embeddings = np.concatenate(list(_embed(session, places, kind, progress)))
    labels = [place.word for place in places]
    bare = np.stack(
        [
            np.bincount(place.units[place.starts[place.index] : place.ends[place.index]], minlength=501)
            for place in places
        ]
    ).astype(np.float64)
    found = similarity(embeddings, labels)
    floor = similarity(bare, labels)
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(places) - 1) / 3)
    flat = TSNE(perplexity=perplexity, random_state=config.seed, init="pca", n_jobs=1).fit_transform(embeddings)
    summary = {
        "model_id": session.loaded.manifest.id if session.loaded.manifest else "",
        "patching": kind,
        "occurrences": len(places),
        "words": {word: labels.count(word) for word in dict.fromkeys(labels)},
        **found,
        "floor": floor,
        "totals": {name: round(found[name], 5) for name in ("within", "between", "silhouette")},
    }
    return summary, Points(labels, [place.row for place in places], embeddings, np.asarray(flat, dtype=np.float64))


def _trained_aligned(session: Session) -> bool:
    """Whether the model was trained on aligned patches; what is fine-tuned is static, its ancestor may not be."""
    manifest = session.loaded.manifest
    bodies = [manifest.config, *(entry["config"] for entry in manifest.ancestors.values())] if manifest else []
    modes = [body.get("patching", {}).get("mode") for body in bodies if isinstance(body.get("patching"), dict)]
    return any(mode in ("aligned", "mixed", "curriculum") for mode in modes)


def _places(data: Manifest, config: WordsConfig) -> list[_Place]:
    """Occurrences, the most frequent words first; the same whatever the order of the rows."""
    found: dict[str, list[_Place]] = {}
    for row in iter_rows(data):
        if "words" not in row:
            raise LstError(f"{data.path} holds {data.schema}: it has no words.", hint="Give aligned speech or pairs.")
        starts = np.array([word["start"] for word in row["words"]], dtype=np.int32)
        ends = np.array([word["end"] for word in row["words"]], dtype=np.int32)
        for index, word in enumerate(row["words"]):
            text = simple_normalise(word["text"])
            if len(text) >= config.min_letters and ends[index] - starts[index] >= MIN_FRAMES:
                units = np.array(row["units"], dtype=np.uint16)
                found.setdefault(text, []).append(_Place(text, row["id"], units, starts, ends, index))
    enough = {word: places for word, places in found.items() if len(places) >= config.least}
    if len(enough) < 2:
        raise LstError(
            f"{data.path} has {len(enough)} words with {config.least} occurrences or more; two are needed.",
            hint="Give more speech, or a smaller --least.",
        )
    chosen = sorted(enough, key=lambda word: (-len(enough[word]), word))[: config.words]

    def order(place: _Place) -> str:
        return sha256_bytes(f"{config.seed}/{place.row}/{place.index}".encode())

    return [place for word in chosen for place in sorted(enough[word], key=order)[: config.occurrences]]


def _embed(session: Session, places: Sequence[_Place], kind: PatchKind, progress: Progress | None) -> Any:
    """Embeddings (b, d) of batch after batch of occurrences."""
    import torch

    from lst.data.batch import pack_examples

    report = progress or (lambda *_: None)
    model, vocabulary = session.model, session.vocabulary
    for start in range(0, len(places), BATCH):
        batch = places[start : start + BATCH]
        examples = [_example(session, place, kind) for place in batch]
        packed = pack_examples([[example] for example in examples], vocabulary).to(session.device)
        with torch.inference_mode():
            patches = model.patch_embeddings(packed).double().cpu().numpy()
        vectors = []
        for place, example, states in zip(batch, examples, patches, strict=True):
            ends = np.cumsum(example.patch_lengths) - 1  # the first patch is the marker
            begins = ends - example.patch_lengths
            touched = (begins < place.ends[place.index]) & (ends > place.starts[place.index])
            vectors.append(states[: len(ends)][touched].mean(axis=0))
        yield np.stack(vectors)
        report(start + len(batch), len(places), "words")


def _example(session: Session, place: _Place, kind: PatchKind) -> Example:
    """`<s>` and the utterance's units, patched."""
    config = session.loaded.config.patching
    lengths, closed = patch_span(kind, len(place.units), config, starts=place.starts, ends=place.ends)
    tokens = np.concatenate(([session.vocabulary.speech_marker], session.encode_units(place.units))).astype(np.int32)
    places = np.arange(len(tokens))
    return Example(
        tokens,
        np.concatenate(([1], lengths)).astype(np.int32),
        np.concatenate(([True], closed)),
        places >= 1,
        place.row,
    )


def similarity(vectors: Float, labels: Sequence[str]) -> dict[str, Any]:
    """Mean cosines within and between labels, raw and centred, and the silhouette, of `vectors` (n, d)."""
    from sklearn.metrics import silhouette_score

    same = np.array(labels)[:, None] == np.array(labels)[None, :]
    pair = np.triu(np.ones_like(same), 1)
    body: dict[str, Any] = {}
    for name, moved in (("", vectors), ("centred", vectors - vectors.mean(axis=0))):
        unit = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
        cosines = unit @ unit.T
        both = {"within": float(cosines[same & pair].mean()), "between": float(cosines[~same & pair].mean())}
        body |= {name: both} if name else both
    body["silhouette"] = float(silhouette_score(vectors, labels, metric="cosine"))
    return body


def _write_points(path: Path, points: Points) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"word": points.words, "row": points.rows, "x": points.flat[:, 0], "y": points.flat[:, 1]}
    pq.write_table(pa.table({**columns, "embedding": points.embeddings.astype(np.float32).tolist()}), path)


def _draw(path: Path, points: Points, summary: dict[str, Any]) -> None:
    """The t-SNE figure: a colour and a marker per word."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = colormaps["tab20"]
    for number, word in enumerate(summary["words"]):
        chosen = [place for place, label in enumerate(points.words) if label == word]
        marker = "osD^v"[number // 20 % 5]
        x, y = points.flat[chosen].T
        axes.scatter(x, y, s=14, color=colours(number % 20), marker=marker, label=word)
    axes.set_title(f"Patch embeddings of words, silhouette {summary['silhouette']:.2f}")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    figure.savefig(path, dpi=130, metadata={"Software": None})
