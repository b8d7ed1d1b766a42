"""`lst`: the table of commands, and the one place where errors become a line and an exit code.

Commands are listed by name here and their modules are imported only when one of them is called, or for the help of
the whole: no module of `lst.cli` imports more than Typer at its top.
"""

import importlib
import os
import sys
from typing import Any

import typer

GROUPS = (
    "ingest",
    "units",
    "align",
    "text",
    "interleave",
    "splice",
    "train",
    "evaluate",
    "make_benchmark",
    "generate",
    "vocode",
    "run",
    "manifest",
    "assets",
    "report",
    "doctor",
)
"""Modules of `lst.cli`, in the order of the help; each has `register(app)`."""


STOPPED = 130
"""Exit code of a command that was stopped by Ctrl-C."""


def build_app() -> typer.Typer:
    """The command line with all its commands."""
    app = typer.Typer(
        name="lst",
        help="From raw speech and text to a Latent Speech-Text Transformer, and back into speech.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def options(
        debug: bool = typer.Option(False, "--debug", help="Show the full traceback of an error."),
        version: bool = typer.Option(False, "--version", help="Print the version and exit."),
    ) -> None:
        if version:
            import lst

            typer.echo(f"lst {lst.__version__}")
            raise typer.Exit()

    for group in GROUPS:
        importlib.import_module(f"lst.cli.{group}").register(app)
    return app


def main() -> None:
    """Entry point. Exit 0: done; 1: failed; 2: called wrongly; 130: stopped by Ctrl-C, and can be continued."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    from lst.errors import LstError

    debug = "--debug" in arguments
    # `--debug` may stand anywhere; Typer would take it only before the command.
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        result = build_app()(args=arguments, prog_name="lst", standalone_mode=False)
        if result == STOPPED:  # what Typer makes of Ctrl-C
            return _stopped()
        return result if isinstance(result, int) else 0
    except KeyboardInterrupt:
        return _stopped()
    except BrokenPipeError:
        # The reader of stdout (such as `head`) has gone; keep Python's own flush at exit from failing on it too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except LstError as error:
        if debug:
            raise
        _say(str(error))
        return error.exit_code
    except Exception as error:
        if _is_click(error, "Abort"):
            return _stopped()
        if _is_click(error, "ClickException"):
            return _called_wrongly(error)
        if debug:
            raise
        if isinstance(error, OSError) and error.filename is not None:
            _say(f"{os.fsdecode(error.filename)}: {error.strerror}. Run again with --debug for where it was needed.")
            return 1
        _say(f"Internal error: {type(error).__name__}: {error}. Run again with --debug for the traceback.")
        return 1


def _stopped() -> int:
    _say("Stopped. Run the same command again to continue.")
    return STOPPED


def _called_wrongly(error: Any) -> int:
    """Say what click found wrong with a command line, and where its help is."""
    if _is_click(error, "NoArgsIsHelpError"):
        error.show()
    else:
        context = getattr(error, "ctx", None)
        wrong = error.format_message().removesuffix(".")
        _say(f"{wrong}. See {context.command_path if context else 'lst'} --help.")
    return int(error.exit_code)


def _is_click(error: Exception, name: str) -> bool:
    """Whether `error` is click's exception `name`; Typer carries its own copy of click in some versions."""
    return any(base.__name__ == name for base in type(error).__mro__)


def _say(message: str) -> None:
    sys.stderr.write("lst: " + " ".join(message.split()) + "\n")
