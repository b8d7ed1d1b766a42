"""`lst eval storycloze`, `lst eval losses`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lst.cli import eval_speech

if TYPE_CHECKING:
    from lst.manifest import Manifest

MODEL = typer.Option(..., help="Model to be tested (made by lst pretrain or lst finetune).")
OUT = typer.Option(None, help="Keep the result here: summary.json, summary.md, per-item scores as Parquet.")
SEED = typer.Option(0, help="Of the bootstrap, or of the choice of rows.")
DEVICE = typer.Option("cpu", help="cpu or cuda.")
FORCE = typer.Option(False, "--force", help="Replace another result at --out.")
JSON = typer.Option(False, "--json", help="Print the summary as JSON.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Measure a model.")
    group.command("storycloze")(storycloze)
    group.command("losses")(losses)
    eval_speech.register(group)
    app.add_typer(group, name="eval")


def storycloze(
    model: Path = MODEL,
    data: Path = typer.Option(
        ..., help="A benchmark: StoryCloze .csv, slamkit's wavs, .jsonl, a directory of one, or an imported one."
    ),
    mode: str = typer.Option("all", metavar="s-s|t-t|s-t|t-s|all", help="Prompt, then ending: s speech, t text."),
    out: Path | None = OUT,
    tokenizer: str | None = typer.Option(None, help="Unit tokenizer (default: the model's, by its fingerprint)."),
    seed: int = SEED,
    device: str = DEVICE,
    workers: int = typer.Option(1, min=1, help="Processes that turn the benchmark's audio into units."),
    force: bool = FORCE,
    as_json: bool = JSON,
) -> None:
    """Which of two endings does the model find likelier? Accuracy in four directions, with 95% intervals.

    Example: lst eval storycloze --model out/model --data data_manifests/storycloze-tiny
    """
    from lst.cli.common import stage_progress
    from lst.evaluate.data import benchmark_for
    from lst.evaluate.stage import StoryclozeConfig
    from lst.evaluate.stage import storycloze as run
    from lst.manifest import load_manifest

    config = _config(StoryclozeConfig, {"mode": mode, "seed": seed})
    made = load_manifest(model, "lst.model")
    with stage_progress("import-benchmark") as progress:
        bench = benchmark_for(
            made, data, tokenizer=tokenizer, text_only=mode == "t-t", workers=workers, progress=progress
        )
    with stage_progress("storycloze") as progress, _directory(out) as target:
        result = run(made, bench, target, config, progress=progress, force=force, device=device)
        shown = _read(result)
    _print(*shown, as_json)


def losses(
    model: Path = MODEL,
    data: Path = typer.Option(..., help="Pairs (made by lst interleave)."),
    text: Path | None = typer.Option(None, help="Tokenized text (default: what the pairs were made with)."),
    out: Path | None = OUT,
    seed: int = SEED,
    device: str = DEVICE,
    force: bool = FORCE,
    as_json: bool = JSON,
) -> None:
    """Held-out bits per second of speech and per text token.

    Example: lst eval losses --model out/model --data out/pairs --text out/text
    """
    from lst.cli.common import stage_progress
    from lst.evaluate.stage import LossesConfig
    from lst.evaluate.stage import losses as run
    from lst.manifest import load_manifest, open_input

    config = _config(LossesConfig, {"seed": seed})
    pairs = load_manifest(data, "lst.pairs")
    documents = load_manifest(text, "lst.text") if text is not None else open_input(pairs, "text")
    with stage_progress("losses") as progress, _directory(out) as target:
        result = run(
            load_manifest(model, "lst.model"),
            pairs,
            documents,
            target,
            config,
            progress=progress,
            force=force,
            device=device,
        )
        shown = _read(result)
    _print(*shown, as_json)


def _directory(out: Path | None) -> Any:
    """`out`, or a place that is gone when the result has been shown."""
    from contextlib import contextmanager, nullcontext
    from tempfile import TemporaryDirectory

    if out is not None:
        return nullcontext(out)

    @contextmanager
    def temporary() -> Any:
        with TemporaryDirectory(prefix="lst-eval-") as directory:
            yield Path(directory) / "result"

    return temporary()


def _read(result: "Manifest") -> tuple[dict[str, Any], str]:
    import json

    summary: dict[str, Any] = json.loads(result.file("summary.json").read_text(encoding="utf-8"))
    return summary, result.file("summary.md").read_text(encoding="utf-8")


def _print(summary: dict[str, Any], table: str, as_json: bool) -> None:
    from lst.cli.common import emit_json

    if as_json:
        emit_json(summary)
    else:
        typer.echo(table.rstrip("\n"))


def _config(kind: Any, values: dict[str, Any]) -> Any:
    """A checked configuration; a wrong value is wrong usage."""
    from pydantic import ValidationError

    from lst.errors import UsageError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"--{name.replace('_', '-')}: {first['msg']}.") from error
