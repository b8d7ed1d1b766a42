"""`lst eval asr`: how well a model writes down what it hears, and how it fails.

    WER, CER        pooled over the corpus, after OpenAI's normaliser on both sides, with bootstrap intervals
    non-stopping    share of utterances that ran into the longest length or the context instead of `<end>`
    hallucination   share with more inserted words than half of the reference's, or with a phrase said over and over:
                    words that answer to no sound
    context         patches that the model reads for a second of speech, against 25 units

The last two failures are the paper's baseline's (section 4.3): its WER above 100% is made of them.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from lst.config import StageConfig
from lst.constants import FRAME_RATE
from lst.errors import LstError
from lst.evaluate.done import read_done
from lst.evaluate.report import asr_markdown
from lst.evaluate.speech_data import Split, Spoken, utterances
from lst.evaluate.stage import eval_spec, write_result
from lst.evaluate.statistics import bootstrap_interval, ratio_interval
from lst.evaluate.words import Normaliser, load_normaliser, word_errors
from lst.generate.decoding import Tokens, generate, global_units
from lst.generate.recognition import TRANSCRIBE, recognition_prompt
from lst.generate.sampling import GenerateConfig
from lst.generate.session import Session, open_session
from lst.manifest import DirectoryResult, Manifest, Progress, StageSpec, build_directory, write_atomic

HEARD_FILE = "heard.jsonl"
DONE_FILE = "done.jsonl"
BATCH = 8

LOOP_TIMES = 4
"""A phrase of one to four words so often in a row is a loop, not speech."""
_LOOP = re.compile(rf"\b(\S+(?: \S+){{0,3}})(?: \1\b){{{LOOP_TIMES - 1},}}")


class AsrEvalConfig(StageConfig):
    """What is transcribed, and how."""

    rows: int | None = Field(None, ge=1, description="at most so many utterances, chosen by a hash; null: all")
    split: Split = Field("auto", description="rows of pairs: valid, train, all; auto: the held-out ones if there are")
    beam: int = Field(1, ge=1, description="beams of the search; 1: greedy")
    max_tokens: int = Field(300, ge=1, description="longest transcript, in text tokens")
    normaliser: Normaliser = Field("auto", description="simple, whisper, or auto: whisper where it is installed")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the bootstrap intervals")
    resamples: int = Field(10_000, ge=100, description="bootstrap resamples")
    seed: int = Field(0, ge=0, description="of the choice of rows and of the intervals")


def asr_spec(model: Manifest, data: Manifest, config: AsrEvalConfig) -> StageSpec:
    """What `evaluate_asr` would make; the normaliser that is used counts."""
    used = load_normaliser(config.normaliser)[0]
    return eval_spec("eval-asr", {"model": model, "data": data}, config, more={"normaliser_used": used})


def evaluate_asr(
    model: Manifest,
    data: Manifest,
    out: Path,
    config: AsrEvalConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    device: str = "cpu",
) -> Manifest:
    """Transcribe `data` (units with texts) and write `lst.eval/1` to `out`; a killed run continues where it was.

    `workers` is ignored: one process decodes in batches. Raises LstError if the units are another tokenizer's, if the
    model was fine-tuned for another task, or if no utterance has a text.
    """

    def make(directory: Path) -> DirectoryResult:
        session = open_session(model.path, device=device)
        heard = transcripts(session, data, config, directory / DONE_FILE, progress=progress)
        summary = measure(session, heard, config)
        write_atomic(directory / HEARD_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in heard))
        return write_result(directory, summary, asr_markdown(summary), [HEARD_FILE])

    return build_directory(out, asr_spec(model, data, config), make, force=force)


def transcripts(
    session: Session, data: Manifest, config: AsrEvalConfig, done_file: Path, *, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """One entry per utterance: {id, reference, text, stopped, units, context, tokens} or {id, reference, error}.

    Entries go to `done_file` as they come; those that are there are not made again.
    """
    session.check_manifest(data, "The data")
    if session.task == "tts":
        raise LstError(f"{session.directory} was fine-tuned to speak, not to recognise.", hint="Give an asr model.")
    chosen = utterances(data, split=config.split, rows=config.rows, seed=config.seed)
    done = read_done(done_file)
    left = [one for one in chosen if one.id not in done]
    prompts: list[tuple[Spoken, Tokens]] = []
    for one in left:
        try:
            prompts.append((one, recognition_prompt(session, np.array(one.units), one.id)))
        except LstError as error:
            done[one.id] = {"id": one.id, "reference": one.text, "error": error.message}
    # Equal lengths decode together: the longest document of a batch sets its pace.
    prompts.sort(key=lambda pair: (-len(pair[1]), pair[0].id))
    decoding = TRANSCRIBE.model_copy(update={"max_tokens": config.max_tokens})
    report = progress or (lambda *_: None)
    with done_file.open("a", encoding="utf-8") as file:
        for start in range(0, len(prompts), BATCH):
            batch = prompts[start : start + BATCH]
            for entry in _decode(session, batch, decoding, config.beam):
                done[entry["id"]] = entry
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            file.flush()
            report(len(chosen) - len(prompts) + start + len(batch), len(chosen), "utterances")
    return [done[one.id] for one in chosen]


def _decode(
    session: Session, batch: Sequence[tuple[Spoken, Tokens]], config: GenerateConfig, beam: int
) -> Iterator[dict[str, Any]]:
    from lst.generate.beam import beam_search

    prompts = [prompt for _, prompt in batch]
    if beam > 1:
        made = [beam_search(session, prompt, "text", config, beams=beam) for prompt in prompts]
    else:
        made = generate(session, prompts, "text", config, batch_size=len(prompts))
    for (one, prompt), generation in zip(batch, made, strict=True):
        ids = generation.ids("text").tolist()
        yield {
            "id": one.id,
            "reference": one.text,
            "text": session.text.decode(ids),
            "stopped": generation.stopped,
            "units": len(one.units),
            "context": global_units(session, prompt),
            "tokens": len(ids),
        }


def measure(session: Session, heard: Sequence[dict[str, Any]], config: AsrEvalConfig) -> dict[str, Any]:
    """The summary. Raises LstError if nothing could be transcribed or no reference has a word."""
    failed = [row for row in heard if "error" in row]
    rows = [row for row in heard if "error" not in row]
    if not rows:
        raise LstError(f"No utterance could be transcribed (first: {failed[0]['error']})")
    references, texts = [row["reference"] for row in rows], [row["text"] for row in rows]
    pooled = word_errors(references, texts, normaliser=config.normaliser)
    _, normalise = load_normaliser(config.normaliser)
    each = [
        word_errors([reference], [text], normaliser=config.normaliser) if normalise(reference) else None
        for reference, text in zip(references, texts, strict=True)
    ]
    scored = [errors for errors in each if errors is not None]
    settings = {"confidence": config.confidence, "resamples": config.resamples, "seed": config.seed}
    wer = ratio_interval([e.wer * e.words for e in scored], [e.words for e in scored], **settings)  # type: ignore[arg-type]
    cer = ratio_interval([e.cer * e.characters for e in scored], [e.characters for e in scored], **settings)  # type: ignore[arg-type]
    inserting = [errors is not None and errors.insertions > errors.words / 2 for errors in each]
    looping = [_LOOP.search(normalise(text)) is not None for text in texts]
    endless = [row["stopped"] != "end" for row in rows]
    invented = [a or b for a, b in zip(inserting, looping, strict=True)]
    rates = {
        name: bootstrap_interval(np.array(values, dtype=float), **settings)  # type: ignore[arg-type]
        for name, values in (("non_stopping", endless), ("hallucination", invented), ("looping", looping))
    }
    seconds = sum(row["units"] for row in rows) / FRAME_RATE
    context = sum(row["context"] for row in rows)
    return {
        "model_id": session.loaded.manifest.id if session.loaded.manifest else "",
        "task": session.task,
        "utterances": len(rows),
        "seconds": round(seconds, 2),
        "failed": {row["id"]: row["error"] for row in failed},
        "normaliser": pooled.normaliser,
        "jiwer": pooled.jiwer,
        "decoding": f"beam {config.beam}" if config.beam > 1 else "greedy",
        "words": pooled.words,
        "errors": {name: getattr(pooled, name) for name in ("substitutions", "deletions", "insertions")},
        "wer": {"value": pooled.wer, "low": wer.low, "high": wer.high},
        "cer": {"value": pooled.cer, "low": cer.low, "high": cer.high},
        **{name: {"value": rate.mean, "low": rate.low, "high": rate.high} for name, rate in rates.items()},
        "context_per_second": context / seconds,
        "context_relative": context / sum(row["units"] + 2 for row in rows),
        "tokens_per_utterance": float(np.mean([row["tokens"] for row in rows])),
        "totals": {
            "utterances": len(rows),
            "wer": round(pooled.wer, 5),
            "cer": round(pooled.cer, 5),
            "non_stopping": round(rates["non_stopping"].mean, 5),
            "hallucination": round(rates["hallucination"].mean, 5),
        },
    }
