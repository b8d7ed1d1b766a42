"""Interleaved documents as a person reads them."""

from lst.data.interleaving import DocumentMaker, SpanConfig, Utterance, draw_spans
from lst.data.loader import piece_weights, text_tokenizer_of, vocabulary_of
from lst.data.patching import PatchingConfig
from lst.data.rows import utterance_of
from lst.manifest import Manifest, iter_rows


def preview(
    pairs: Manifest,
    count: int,
    *,
    patching: PatchingConfig | None = None,
    spans: SpanConfig | None = None,
    seed: int = 0,
    epoch: int = 0,
) -> list[tuple[str, str]]:
    """The first `count` utterances as (row id, document), e.g. `<s> ⟨the cat | 21 units | 6 patches⟩ <t> sat <end>`."""
    patching, spans = patching or PatchingConfig(), spans or SpanConfig()
    weights = piece_weights(text_tokenizer_of(pairs)) if patching.unit == "bpe" else None
    maker = DocumentMaker(vocabulary_of(pairs), patching, spans, seed=seed, piece_weights=weights)
    lines = []
    for _, row in zip(range(count), iter_rows(pairs), strict=False):
        words = [word["text"] for word in row["words"]]
        lines.append((row["id"], describe(utterance_of(row), words, maker, epoch)))
    return lines


def describe(utterance: Utterance, words: list[str], maker: DocumentMaker, epoch: int) -> str:
    """One interleaved document: words, markers, and speech spans as ⟨words | units | patches⟩."""
    probability = maker.patching.aligned_probability(0.0)
    plan = maker.utterance("interleaved", utterance, epoch=epoch, aligned_probability=probability)
    contents = [segment for segment in plan.segments if segment.kind != "control"]
    parts = []
    for span, segment in zip(
        draw_spans(utterance.num_words, maker.spans, maker.seed, epoch, utterance.id), contents, strict=True
    ):
        said = " ".join(words[span.first : span.last])
        parts.append(
            f"<s> ⟨{said} | {segment.frames} units | {segment.patches} patches⟩" if span.speech else f"<t> {said}"
        )
    return " ".join([*parts, "<end>"])
