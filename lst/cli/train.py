"""`lst pretrain`, `lst finetune asr|tts`, `lst model`, `lst export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from lst.manifest import Manifest

OUT = typer.Option(..., help="Where to write the model.")
CHANGES = typer.Argument(None, metavar="[KEY=VALUE]...", help="Settings, with dotted keys: optimizer.lr=1e-3")
RESUME = typer.Option("auto", metavar="auto|never", help="Go on with an interrupted run, or start over.")
FORCE = typer.Option(False, "--force", help="Replace an output made from other inputs or settings.")
PRESET = typer.Option(None, metavar="paper|nano", help="Settings to begin with: the paper's, or minutes on a CPU.")
WANDB = typer.Option(None, metavar="PROJECT", help="Also log to this Weights & Biases project.")
JSON = typer.Option(False, "--json", help="Print JSON.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("pretrain")(pretrain)
    finetune = typer.Typer(no_args_is_help=True, help="Fine-tune a model to recognise speech (asr) or to speak (tts).")
    finetune.command("asr")(finetune_asr)
    finetune.command("tts")(finetune_tts)
    app.add_typer(finetune, name="finetune")
    app.command("model")(model)
    app.command("export")(export)


def pretrain(
    config: Path = typer.Option(..., help="YAML file: pairs, text (directories), and the settings."),
    out: Path = OUT,
    changes: list[str] = CHANGES,
    resume: str = RESUME,
    dry_run: bool = typer.Option(False, "--dry-run", help="Print what would be trained; train nothing."),
    warm_start: Path = typer.Option(
        None,
        metavar="MODEL",
        help="Begin as this text model (Llama architecture), or go on from one of lst; or a name.",
    ),
    processes: int = typer.Option(1, min=1, help="With --dry-run: how many processes torchrun will start."),
    force: bool = FORCE,
    wandb: str = WANDB,
    as_json: bool = JSON,
) -> None:
    """Train a model on pairs and text. Stopped by a signal, it saves; the same command continues.

    Example: lst pretrain --config recipes/pretrain-nano.yaml --out out/model budget.amount=2000 optimizer.lr=2e-3
    """
    from lst.cli.common import stage_progress
    from lst.train.options import load_pretrain_options, plan_of
    from lst.train.stage import pretrain as run

    _check_resume(resume)
    options = load_pretrain_options(config, changes or [], warm_start=warm_start)
    if dry_run:
        _print_plan(plan_of(options, processes=processes), as_json)
        return
    pairs, text = options.open()
    with stage_progress("pretrain") as progress:
        manifest = run(
            pairs,
            text,
            out,
            options.config,
            progress=progress,
            force=force,
            resume=resume,  # type: ignore[arg-type]
            wandb_project=wandb,
        )
    _print(manifest, as_json)


def finetune_asr(
    model: Path = typer.Option(..., help="Pre-trained model (made by lst pretrain), or a name: lst-nano."),
    data: Path = typer.Option(..., help="Pairs (made by lst interleave)."),
    out: Path = OUT,
    changes: list[str] = CHANGES,
    preset: str | None = PRESET,
    resume: str = RESUME,
    force: bool = FORCE,
    wandb: str = WANDB,
    as_json: bool = JSON,
) -> None:
    """Teach a model to write what it hears. The metrics have WER and CER of a few held-out utterances.

    Example: lst finetune asr --model out/model --data out/pairs --out out/asr --preset nano lora=16
    """
    _finetune("asr", model, data, out, preset, changes or [], resume, force, wandb, as_json)


def finetune_tts(
    model: Path = typer.Option(..., help="Pre-trained model (made by lst pretrain), or a name: lst-nano."),
    data: Path = typer.Option(..., help="Pairs (made by lst interleave)."),
    out: Path = OUT,
    changes: list[str] = CHANGES,
    preset: str | None = PRESET,
    resume: str = RESUME,
    force: bool = FORCE,
    wandb: str = WANDB,
    as_json: bool = JSON,
) -> None:
    """Teach a model to say what it reads. With valid_utterances=8 the metrics have what Whisper hears.

    Example: lst finetune tts --model out/model --data out/pairs --out out/tts --preset nano budget.amount=800
    """
    _finetune("tts", model, data, out, preset, changes or [], resume, force, wandb, as_json)


def _finetune(
    task: str,
    model: Path,
    data: Path,
    out: Path,
    preset: str | None,
    changes: list[str],
    resume: str,
    force: bool,
    wandb: str | None,
    as_json: bool,
) -> None:
    from lst.assets.models import find_model
    from lst.cli.common import stage_progress
    from lst.errors import UsageError
    from lst.manifest import load_manifest
    from lst.train.finetune import PRESETS, FinetuneConfig, finetune
    from lst.train.options import settings_of

    _check_resume(resume)
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"--preset {preset}: valid are {', '.join(PRESETS)}.")
    config = settings_of(FinetuneConfig, {**PRESETS.get(preset or "", {}), "task": task}, changes, "")
    source = load_manifest(find_model(model, "pretrained").directory, "lst.model")
    pairs = load_manifest(data, "lst.pairs")
    with stage_progress(f"finetune {task}") as progress:
        manifest = finetune(
            source,
            pairs,
            out,
            config,
            progress=progress,
            force=force,
            resume=resume,  # type: ignore[arg-type]
            wandb_project=wandb,
        )
    _print(manifest, as_json)


def model(
    name: str = typer.Argument(..., metavar="PRESET", help="nano, micro, 420m, 630m, 810m, 1.1b, 1.4b, 1.8b or 7b."),
    base: str = typer.Option(None, help="The base SpeechLLM instead: same-global, or matched in FLOPs per unit."),
    text_size: int = typer.Option(32000, min=1, help="Pieces of the text tokenizer (Llama-2 has 32,000)."),
    gpus: int = typer.Option(32, min=1, help="H100 GPUs that share the work under FSDP2."),
    sequences: int = typer.Option(4, min=1, help="Sequences of 4,096 units per GPU and step."),
    mfu: float = typer.Option(0.4, min=0.01, max=1, help="Share of the GPUs' peak that is reached."),
    units: float = typer.Option(None, min=1, help="Sequence units to train on (default: the paper's 1B, 1.05e11)."),
    as_json: bool = JSON,
) -> None:
    """Say how large a model is and what it costs: parameters by module, FLOPs, memory, hours.

    Example: lst model 1.1b --gpus 32
    """
    from lst.model.plan import PAPER_UNITS, plan_training
    from lst.model.presets import preset

    config = preset(name, text_size=text_size, base=base)  # type: ignore[arg-type]
    plan = plan_training(config, gpus=gpus, sequences_per_gpu=sequences, mfu=mfu, units=units or PAPER_UNITS)
    _print_plan({"model": config.name, **plan.as_json()}, as_json)


def export(
    directory: Path = typer.Argument(..., metavar="MODEL", help="Made by lst pretrain or finetune; or a name."),
    out: Path = typer.Option(..., help="New directory to write."),
    as_json: bool = JSON,
) -> None:
    """Write a model for transformers' AutoModelForCausalLM: a base model as Llama, an LST with its own code.

    Example: lst export outputs/demo/pretrain --out exported
    """
    from lst.assets.models import find_model
    from lst.cli.common import emit_json
    from lst.generate.export import export_model

    made = export_model(find_model(directory, "pretrained").directory, out)
    if as_json:
        emit_json({"path": str(made)})
    else:
        typer.echo(made)


def _check_resume(resume: str) -> None:
    if resume not in ("auto", "never"):
        from lst.errors import UsageError

        raise UsageError(f"--resume {resume}: valid are auto and never.")


def _print(manifest: "Manifest", as_json: bool) -> None:
    from lst.cli.common import print_manifest
    from lst.train.together import process_rank

    if process_rank() == 0:
        print_manifest(manifest, as_json=as_json)


def _print_plan(plan: dict[str, Any], as_json: bool) -> None:
    from lst.cli.common import emit_json, format_number, out

    if as_json:
        emit_json(plan)
        return
    lines = []
    for key, value in plan.items():
        items = value.items() if isinstance(value, dict) else [("", value)]
        for part, item in items:
            name = " ".join([key, part]).strip().replace("_", " ")
            lines.append((name, format_number(item) if isinstance(item, int | float) else str(item)))
    width = max(len(name) for name, _ in lines)
    for name, shown in lines:
        out().print(f"{name:<{width}}  {shown}", markup=False)
