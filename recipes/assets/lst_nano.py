"""Make the model in the box, `lst-nano`, from what `lst-nano.yaml` trained and measured.

    lst run recipes/assets/lst-nano.yaml
    python recipes/assets/lst_nano.py PRETRAINED ASR TTS [EVALUATION …] OUT

PRETRAINED, ASR and TTS are outputs of `lst pretrain` and of fine-tuning it, in one stage or several; or PRETRAINED went
on (`warm_start`) from the weights of ASR, and the model that ASR and TTS were made of stays behind. Each EVALUATION is
one of `lst eval` of one of them (or of a model in an OUT made before: weights do not depend on evaluations). OUT gets a
model directory for each, weights in half precision, and `card.json`; an asset that is there is replaced. Nothing in it
depends on where or when it is made. What half precision changes is measured here and stands on the card.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lst.assets import find_by_fingerprint, read_card
from lst.assets.models import BOX_MODEL, PARTS
from lst.errors import LstError
from lst.evaluate.losses import LossesConfig, measure_losses
from lst.evaluate.speech_data import utterances
from lst.evaluate.words import word_errors
from lst.generate.decoding import generate
from lst.generate.recognition import TRANSCRIBE, recognition_prompt
from lst.generate.session import open_session
from lst.generate.tasks import SYNTHESIZE, synthesis_prompt
from lst.manifest import (
    DirectoryResult,
    Manifest,
    StageSpec,
    build_directory,
    iter_rows,
    load_manifest,
    merge_provenance,
    open_input,
    sha256_file,
    sha256_json,
    write_json,
)
from lst.manifest.files import remove
from lst.manifest.manifest import MANIFEST_FILE, to_json
from lst.model.checkpoint import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE

DTYPE = torch.float16
"""Ten bits of fraction against bfloat16's seven; weights are far from its limits."""
LARGEST_BYTES = 40 * 10**6
COMPARED_ROWS, COMPARED_UTTERANCES, COMPARED_TEXTS = 16, 24, 12
"""How much is read, heard and said to compare half precision with full."""
DRAWN = {"temperature": 0.8, "top_p": 0.95, "drafts": 1}
"""How what was judged was said: settings of `lst eval tts`, and their values where an evaluation names none."""
SEEN = ("parameters", "steps", "flops", "units", "text_tokens", "global_units", "speech_patches")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for part in PARTS:
        parser.add_argument(part, type=Path)
    parser.add_argument("evaluations", type=Path, nargs="*")
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    made = {part: load_manifest(getattr(options, part), "lst.model") for part in PARTS}
    make_asset(made, [load_manifest(path, "lst.eval") for path in options.evaluations], options.out)


def make_asset(made: Mapping[str, Manifest], evaluations: Sequence[Manifest], out: Path) -> None:
    """Write the asset of the models `made` (by part) to `out`. Raises LstError if they do not belong together."""
    check_family(made)
    if out.exists() and not (out / "card.json").is_file():
        raise LstError(f"{out} is there, and no asset.", hint="Give another directory.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as place:
        partial = Path(place) / out.name
        partial.mkdir()
        stored = {part: store(made[part], partial / part) for part in PARTS}
        card = describe(made, stored, evaluations, partial)
        write_json(partial / "card.json", card)
        size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        if size > LARGEST_BYTES:
            raise LstError(f"The asset would have {size / 1e6:.1f} MB, more than {LARGEST_BYTES / 1e6:.0f}.")
        remove(out)
        partial.replace(out)
    print(f"{out}: {size / 1e6:.1f} MB, {card['parameters']:,} parameters, {card['flops']:.3g} FLOPs")


def check_family(made: Mapping[str, Manifest]) -> None:
    """Raise LstError unless these are a pre-trained model, or one that went on from asr, and two fine-tunings."""
    pretrained = made["pretrained"]
    wrong = [] if pretrained.stage == "pretrain" else [f"{pretrained.path} is not a pre-trained model."]
    origin = {task: steps_to(made[task])[0]["inputs"].get("model") for task in ("asr", "tts")}
    first = origin["asr"] if goes_on(made) else pretrained.id
    for task in ("asr", "tts"):
        if made[task].config.get("task") != task or origin[task] != first:
            wrong.append(f"{made[task].path} is not {pretrained.path}, or what that began as, fine-tuned for {task}.")
    if wrong:
        raise LstError(wrong[0], hint="Give PRETRAINED ASR TTS in this order.")


def goes_on(made: Mapping[str, Manifest]) -> bool:
    """Whether the pre-trained model began as the recogniser, which then descends from an earlier one."""
    return made["pretrained"].files.get("warm_start") == made["asr"].fingerprints["model"]


def told_of_going_on(made: Mapping[str, Manifest]) -> str:
    """What the card's description adds where the pre-trained model went on from the recogniser."""
    if not goes_on(made):
        return ""
    how = ", by naming words" if made["pretrained"].config.get("words") else ""
    return f" The pre-trained one went on from the recogniser{how}."


def earlier_training(made: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    """What the card says of the model that asr and tts were made of, where that is not the one in the asset."""
    if not goes_on(made):
        return []
    origin = str(steps_to(made["asr"])[0]["inputs"]["model"])
    return [_training_of({"id": origin, **made["asr"].ancestors[origin]})]


def steps_to(made: Manifest) -> list[dict[str, Any]]:
    """The fine-tunings that led to a model, itself last: each with `id`, `inputs`, `config` and `totals`."""
    inputs = {role: entry.id for role, entry in made.inputs.items()}
    steps = [{"id": made.id, "inputs": inputs, "config": made.config, "totals": made.totals}]
    while True:
        before = str(steps[0]["inputs"].get("model", ""))
        source = made.ancestors.get(before, {})
        if source.get("stage") != "finetune":
            return steps
        steps.insert(0, {"id": before, **source})


def store(made: Manifest, out: Path) -> Manifest:
    """A model directory like `made` with weights in half precision, and without the logs of its training."""
    spec = StageSpec(
        schema=made.schema,
        stage=made.stage,
        version=made.stage_version,
        config={**made.config, "weights": str(DTYPE).removeprefix("torch.")},
        inputs={"stored": made},
        fingerprints={name: value for name, value in made.fingerprints.items() if name != "model"},
        provenance=made.provenance,
    )

    def fill(directory: Path) -> DirectoryResult:
        tensors = {name: value.to(DTYPE).contiguous() for name, value in load_file(made.file(WEIGHTS_FILE)).items()}
        if not all(bool(value.isfinite().all()) for value in tensors.values()):
            raise LstError(f"{made.path} has weights that {DTYPE} cannot hold.")
        save_file(tensors, directory / WEIGHTS_FILE, metadata={"format": "lst-model/1"})
        for name in (CONFIG_FILE, TOKENIZER_FILE):
            (directory / name).write_bytes(made.file(name).read_bytes())
        return DirectoryResult(
            artifacts=[CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE],
            totals=made.totals,
            fingerprints={"model": sha256_file(directory / WEIGHTS_FILE)},
        )

    stored = build_directory(out, spec, fill)
    # The same wherever and whenever it is made: no paths to inputs that do not come along, no date of today.
    inputs = {role: replace(entry, path="not-in-the-box") for role, entry in stored.inputs.items()}
    stored = replace(stored, inputs=inputs, created=made.created, tool=made.tool)
    write_json(out / MANIFEST_FILE, to_json(stored))
    return load_manifest(out, "lst.model")


def describe(
    made: Mapping[str, Manifest], stored: Mapping[str, Manifest], evaluations: Sequence[Manifest], asset: Path
) -> dict[str, Any]:
    """The card."""
    data = merge_provenance(*(manifest.provenance for manifest in made.values()))
    pretrained = made["pretrained"]
    models = {part: training_of(made[part]) for part in PARTS}
    models["pretrained"]["before"] = earlier_training(made)
    units = pretrained.fingerprints["tokenizer"]
    tokenizer = find_by_fingerprint(units, "tokenizer")
    if tokenizer is None:
        raise LstError(f"The unit tokenizer of {pretrained.path} does not ship with lst.")
    name = read_card(tokenizer / "card.json").name
    pairs, text = open_input(pretrained, "pairs"), open_input(pretrained, "text")
    parameters = int(pretrained.totals["parameters"])
    files = sorted(path for path in asset.rglob("*") if path.is_file())
    return {
        "name": BOX_MODEL,
        "kind": "model",
        "version": "3",
        "licence": "; ".join(sorted({entry["licence"] for entry in data if entry["licence"]})),
        "source": "recipes/assets/lst_nano.py",
        "description": f"A Latent Speech-Text Transformer of {parameters / 1e6:.1f} M parameters (units of {name}): "
        "pre-trained on simple stories and their spoken form, and fine-tuned to recognise and to speak."
        + told_of_going_on(made),
        "files": {
            path.relative_to(asset).as_posix(): {"sha256": sha256_file(path), "bytes": path.stat().st_size}
            for path in files
        },
        "fingerprint": sha256_json({part: stored[part].fingerprints["model"] for part in PARTS}),
        "data": data,
        "corpus": {"speech": pairs.totals, "text": text.totals},
        "tokenizer": {"name": name, "fingerprint": units},
        "text_tokenizer": pretrained.fingerprints["text_tokenizer"],
        "parameters": parameters,
        "flops": sum(stage["flops"] for model in models.values() for stage in [model, *model["before"]]),
        "models": models,
        "half_precision": {"dtype": str(DTYPE).removeprefix("torch."), **compare(made, stored, pairs, text)},
        "measured": measurements(made, stored, evaluations),
    }


def training_of(made: Manifest) -> dict[str, Any]:
    """What it was trained with, what it saw, and its losses; `before`: the same of the fine-tunings before it."""
    *before, last = (_training_of(step) for step in steps_to(made))
    return {**last, "before": before}


def _training_of(step: Mapping[str, Any]) -> dict[str, Any]:
    totals, config = step["totals"], step["config"]
    losses = {name: value for name, value in totals.items() if name.startswith(("train_", "valid_"))}
    seen = {name: totals[name] for name in SEEN if name in totals}
    return {"id": step["id"], "seed": config["seed"], **seen, "losses": losses, "settings": config}


def compare(
    made: Mapping[str, Manifest], stored: Mapping[str, Manifest], pairs: Manifest, text: Manifest
) -> dict[str, Any]:
    """What half precision changes: held-out losses, transcripts and spoken units of both, on the same rows."""
    losses, ids = {}, {}
    spoken = utterances(pairs, rows=COMPARED_UTTERANCES)
    for kind, models in (("float32", made), ("stored", stored)):
        session = open_session(models["pretrained"].path)
        config = LossesConfig(max_rows=COMPARED_ROWS)
        losses[kind] = measure_losses(session, pairs, text, config)["totals"]
        session = open_session(models["asr"].path)
        heard = [recognition_prompt(session, one.units, one.id) for one in spoken]
        ids[kind, "asr"] = [row.ids("text").tolist() for row in generate(session, heard, "text", TRANSCRIBE)]
        session = open_session(models["tts"].path)
        config = SYNTHESIZE.model_copy(update={"max_tokens": 250})
        said = [synthesis_prompt(session, one.text) for one in spoken[:COMPARED_TEXTS]]
        ids[kind, "tts"] = [row.ids("speech").tolist() for row in generate(session, said, "speech", config)]
    same = {
        task: sum(a == b for a, b in zip(ids["float32", task], ids["stored", task], strict=True))
        for task in ("asr", "tts")
    }
    return {
        "losses": losses,
        "transcripts": {"compared": len(ids["stored", "asr"]), "identical": same["asr"]},
        "drawn_units": {"compared": len(ids["stored", "tts"]), "identical": same["tts"]},
    }


def measurements(
    made: Mapping[str, Manifest], stored: Mapping[str, Manifest], evaluations: Sequence[Manifest]
) -> dict[str, Any]:
    """The numbers of evaluations by the name of their directory. Raises LstError for one of another model."""
    parts = {models[part].id: part for models in (made, stored) for part in PARTS}
    found: dict[str, Any] = {}
    for evaluation in evaluations:
        part = parts.get(evaluation.inputs["model"].id)
        if part is None:
            raise LstError(f"{evaluation.path} measures another model.", hint="Measure these again with lst eval.")
        name = evaluation.path.resolve().name.removeprefix(f"{BOX_MODEL}-")
        if name in found:
            raise LstError(f"Two evaluations are called {name}.", hint="Rename the directory of one.")
        summary = json.loads(evaluation.file("summary.json").read_text(encoding="utf-8"))
        found[name] = {"stage": evaluation.stage, "model": part, **rounded(numbers(evaluation, summary))}
    return found


def rounded(value: Any) -> Any:
    """Numbers of a JSON value to five decimals: more than any of them is sure of."""
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return round(value, 5) if isinstance(value, float) else value


def numbers(evaluation: Manifest, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What of a summary belongs on the card."""
    if "modes" in summary:
        keys = ("accuracy", "low", "high", "n", "headline")
        return {
            mode: {key: body[key] for key in keys if key in body}
            | ({"pmi": body["variants"]["pmi"]["accuracy"]} if "pmi" in body["variants"] else {})
            for mode, body in summary["modes"].items()
        }
    if evaluation.stage == "eval-asr":
        keys = (
            "utterances",
            "seconds",
            "words",
            "wer",
            "cer",
            "non_stopping",
            "hallucination",
            "normaliser",
            "decoding",
        )
        return {key: summary[key] for key in keys} | {"voices": by_voice(evaluation)}
    if evaluation.stage == "eval-tts":
        keys = ("texts", "seconds", "non_stopping", "steps_per_unit", "sets", "judge", "vocoder", "normaliser")
        drawn = {key: evaluation.config.get(key, default) for key, default in DRAWN.items()}
        return {key: summary[key] for key in keys if key in summary} | {"drawn": drawn}
    return dict(summary["totals"])


def by_voice(evaluation: Manifest) -> dict[str, Any]:
    """WER of each speaker, and whether training had that voice."""
    data = open_input(evaluation, "data")
    rows = {row["id"]: row for row in iter_rows(data)}
    met = {row["speaker"] for row in rows.values() if row.get("split") == "train"}
    with evaluation.file("heard.jsonl").open(encoding="utf-8") as file:
        heard = [row for row in map(json.loads, file) if "error" not in row]
    voices: dict[str, list[dict[str, Any]]] = {}
    for row in heard:
        voices.setdefault(rows[row["id"]]["speaker"], []).append(row)
    found = {}
    for voice, said in sorted(voices.items()):
        errors = word_errors([row["reference"] for row in said], [row["text"] for row in said])
        found[voice] = {
            "utterances": len(said),
            "words": errors.words,
            "wer": errors.wer,
            "met_in_training": voice in met,
        }
    return found


if __name__ == "__main__":
    try:
        main()
    except LstError as error:
        sys.exit(str(error))
