"""The entry point: commands, exit codes, and errors without tracebacks."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from harness.cli import bench, check, compare, doctor, leaderboard, listing, plugins, show, train, verify, weights
from harness.errors import HarnessError
from harness.version import __version__

# Typer carries its own copy of click in newer releases; its usage errors are found through a public subclass.
_UsageProblem: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

CONTEXT = {"token_normalize_func": lambda token: token.replace("_", "-"), "help_option_names": ["-h", "--help"]}

EXIT_CODES = (
    "Exit codes: 0 done, 1 internal error, 2 bad usage, 3 some cells failed, 4 tables differ from records, "
    "5 nothing selected, 130 interrupted (finished work is kept)."
)

app = typer.Typer(
    help=f"Benchmark the adversarial robustness of image classifiers. {EXIT_CODES}",
    no_args_is_help=True,
    add_completion=False,
    context_settings=CONTEXT,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"harness {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Set what holds for every command."""
    if debug:
        os.environ["HARNESS_DEBUG"] = "1"


app.command("bench", context_settings=CONTEXT)(bench.command)
app.command("train", context_settings=CONTEXT)(train.command)
app.command("list", context_settings=CONTEXT)(listing.command)
app.command("ls", hidden=True, context_settings=CONTEXT)(listing.command)
app.command("show", context_settings=CONTEXT)(show.command)
app.command("plugins", context_settings=CONTEXT)(plugins.command)
app.command("check", context_settings=CONTEXT)(check.command)
app.command("verify", context_settings=CONTEXT)(verify.command)
app.command("compare", context_settings=CONTEXT)(compare.compare)
app.command("diff", context_settings=CONTEXT)(compare.diff)
app.command("doctor", context_settings=CONTEXT)(doctor.command)
app.add_typer(leaderboard.app, name="leaderboard", context_settings=CONTEXT)
app.add_typer(weights.app, name="weights", context_settings=CONTEXT)


def run() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        code = app(standalone_mode=False)
    except _UsageProblem as error:
        error.show()  # type: ignore[attr-defined]
        code = 2
    except HarnessError as error:
        _explain(error, f"error: {error}")
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; what was finished is kept", file=sys.stderr)
        code = 130
    except Exception as error:
        _explain(error, f"internal error: {type(error).__name__}: {error}\nThis is a bug; harness --debug shows where.")
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: BaseException, text: str) -> None:
    if os.environ.get("HARNESS_DEBUG"):
        traceback.print_exception(error)
    print(text, file=sys.stderr)
