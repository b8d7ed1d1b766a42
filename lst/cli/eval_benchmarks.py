"""`lst eval BENCHMARK`, `lst eval all`, `lst eval compare`, `lst eval seeds`."""

from collections.abc import Callable
from pathlib import Path

import typer

from lst.cli.eval_common import (
    DEVICE,
    FORCE,
    JSON,
    MODEL,
    OUT,
    SEED,
    TOKENIZER,
    WORKERS,
    checked,
    kept_or_temporary,
    open_model,
    print_result,
    read_result,
)

RECOGNISER = typer.Option(
    None, help="Also score its speech as this asr model writes it down (mode heard); a model, or lst-nano."
)

BENCHMARKS = {
    "storycloze": "Which of two endings does the model find likelier? In four directions, with 95% intervals.",
    "topic-storycloze": "Story cloze whose wrong endings come from other stories; made from StoryCloze's CSV if given.",
    "hellaswag": "Which of four endings is the likeliest? Text queries are lm-evaluation-harness's.",
    "swuggy": "Words against non-words in speech (ZeroSpeech: a directory with gold.csv).",
    "sblimp": "Grammatical against ungrammatical spoken sentences (ZeroSpeech: a directory with gold.csv).",
    "blimp": "Grammatical against ungrammatical sentences, as text (the authors' JSONL files).",
    "piqa": "Which of two solutions is the likelier? Text queries are lm-evaluation-harness's.",
}


def register(group: typer.Typer) -> None:
    """Add the commands."""
    for name in BENCHMARKS:
        group.command(name)(_benchmark(name))
    group.command("all")(evaluate_all)
    group.command("compare")(compare)
    group.command("seeds")(seeds)


def _benchmark(name: str) -> Callable[..., None]:
    """The command of one benchmark."""

    def command(
        model: Path = MODEL,
        data: Path = typer.Option(..., help="The benchmark: its files, a directory of them, or an imported one."),
        mode: str = typer.Option("all", metavar="s-s|t-t|s-t|t-s|all", help="Prompt, then ending: s speech, t text."),
        recogniser: Path | None = RECOGNISER,
        out: Path | None = OUT,
        tokenizer: str | None = TOKENIZER,
        seed: int = SEED,
        device: str = DEVICE,
        workers: int = WORKERS,
        force: bool = FORCE,
        as_json: bool = JSON,
    ) -> None:
        from lst.cli.common import stage_progress
        from lst.evaluate.data import benchmark_for
        from lst.evaluate.report import choices_markdown
        from lst.evaluate.stage import ChoicesConfig, choices

        config = checked(ChoicesConfig, {"mode": mode, "seed": seed, "recogniser": recogniser})
        made = open_model(model)
        with stage_progress("import-benchmark") as progress:
            bench = benchmark_for(
                made, data, kind=name, tokenizer=tokenizer, text_only=mode == "t-t", workers=workers, progress=progress
            )
        with stage_progress(name) as progress, kept_or_temporary(out) as target:
            result = choices(made, bench, target, config, progress=progress, force=force, device=device)
            summary, _ = read_result(result)
        print_result(summary, choices_markdown(summary, variants=False), as_json)

    command.__doc__ = (
        f"{BENCHMARKS[name]}\n\n    Example: lst eval {name} --model out/model --data benchmarks/{name}\n    "
    )
    return command


def evaluate_all(
    model: Path = MODEL,
    data: list[str] = typer.Option(
        [], help="A benchmark, a directory of benchmarks, or BENCHMARK=PATH; repeat. Default: the shipped ones."
    ),
    out: Path | None = OUT,
    pairs: Path | None = typer.Option(None, help="Pairs for the held-out losses (default: the model's own)."),
    text: Path | None = typer.Option(None, help="Tokenized text (default: what the pairs were made with)."),
    recogniser: Path | None = RECOGNISER,
    tokenizer: str | None = TOKENIZER,
    seed: int = SEED,
    device: str = DEVICE,
    workers: int = WORKERS,
    force: bool = FORCE,
    as_json: bool = JSON,
) -> None:
    """Every benchmark in every direction, and held-out losses, over one load of the model. Killed, it continues.

    Example: lst eval all --model out/model --data benchmarks --out out/eval
    """
    from contextlib import ExitStack

    from lst.cli.common import err, stage_progress
    from lst.evaluate.suite import SuiteConfig, eval_all, gather

    config = checked(SuiteConfig, {"seed": seed, "recogniser": recogniser})
    made = open_model(model)
    with stage_progress("import-benchmark") as progress:
        suite = gather(made, data, pairs=pairs, text=text, tokenizer=tokenizer, workers=workers, progress=progress)
    for name, why in suite.missing.items():
        err().print(f"lst: {name} is left out: {why}", markup=False)
    with ExitStack() as bars, kept_or_temporary(out) as target:
        result = eval_all(
            made,
            suite,
            target,
            config,
            progress=lambda title: bars.enter_context(stage_progress(title)),
            force=force,
            device=device,
        )
        shown = read_result(result)
    print_result(*shown, as_json)


def compare(
    a: Path = typer.Argument(..., help="A result of lst eval (kept with --out)."),
    b: Path = typer.Argument(..., help="Another model's, on the same benchmarks."),
    more_a: list[Path] = typer.Option([], "--a", help="More of A: the same model trained with another seed; repeat."),
    more_b: list[Path] = typer.Option([], "--b", help="More of B."),
    seed: int = SEED,
    as_json: bool = JSON,
) -> None:
    """Is A better than B? Differences on the same items, with intervals, paired tests, and what n can tell.

    Example: lst eval compare out/lst/eval out/base/eval
    """
    from lst.evaluate.compare import compare as run
    from lst.evaluate.report import compare_markdown

    found = run([a, *more_a], [b, *more_b], seed=seed)
    print_result(found, compare_markdown(found), as_json)


def seeds(
    results: list[Path] = typer.Argument(..., help="Results of lst eval of models that differ in their seed."),
    as_json: bool = JSON,
) -> None:
    """Mean ± standard deviation over seeds.

    Example: lst eval seeds out/seed0/eval out/seed1/eval out/seed2/eval
    """
    from lst.evaluate.compare import seeds as run
    from lst.evaluate.report import seeds_markdown

    found = run(results)
    print_result(found, seeds_markdown(found), as_json)
