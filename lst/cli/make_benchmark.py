"""`lst make-benchmark`."""

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("make-benchmark")(make_benchmark)


def make_benchmark(
    source: Path = typer.Argument(..., metavar="TEXT_BENCHMARK", help="What lst eval reads as text."),
    voice: list[str] = typer.Option(..., help="espeak-ng:NAME, piper:FILE.onnx[#SPEAKER] or kokoro:NAME; repeat."),
    out: Path = typer.Option(..., help="Where to write the spoken benchmark."),
    kind: str = typer.Option("auto", help="Benchmark that it is, where its files do not say."),
    rotate: bool = typer.Option(False, "--rotate", help="One voice per item instead of every voice."),
    items: int | None = typer.Option(None, help="At most so many items."),
    seed: int = typer.Option(0, help="Of the choice of items."),
    workers: int = typer.Option(1, min=1, help="Programs that speak at a time."),
    force: bool = typer.Option(False, "--force", help="Replace an output made from other inputs or settings."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Speak a text benchmark: prompt and endings separately, every sentence once per voice.

    Example: lst make-benchmark hellaswag_val.jsonl --voice piper:joe.onnx --voice espeak-ng:en-us --out hellaswag
    """
    from lst.cli.common import print_manifest, stage_progress
    from lst.cli.eval_common import checked
    from lst.evaluate.make_benchmark import MakeBenchmarkConfig
    from lst.evaluate.make_benchmark import make_benchmark as run

    values = {"kind": kind, "voices": voice, "rotate": rotate, "items": items, "seed": seed}
    config = checked(MakeBenchmarkConfig, values)
    with stage_progress("make-benchmark") as progress:
        manifest = run(source, out, config, workers=workers, progress=progress, force=force)
    print_manifest(manifest, as_json=as_json)
