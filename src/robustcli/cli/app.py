"""`robust`: the six commands and their helpers. Errors become one message and a documented exit code here."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from robustcli import __version__
from robustcli.cli import data, model, recipes
from robustcli.cli.attack import attack
from robustcli.cli.bound_distance import bound_distance
from robustcli.cli.certify import certify
from robustcli.cli.env import env
from robustcli.cli.mip_verify import mip_verify
from robustcli.cli.report import report
from robustcli.cli.train import train
from robustcli.errors import RobustError

EPILOG = (
    "Exit codes: 0 done, 1 internal error or contradiction, 2 usage or recipe, 3 data or checkpoint, "
    "4 solver or licence, 5 requested points left unprocessed, 130 interrupted."
)

app = typer.Typer(
    name="robust",
    help="Train, attack, certify and exactly verify provably robust ReLU classifiers.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

MAIN, HELPERS = "Commands", "Helpers"
commands: dict[str, Callable[..., None]] = {
    "train": train,
    "attack": attack,
    "certify": certify,
    "mip-verify": mip_verify,
    "bound-distance": bound_distance,
    "report": report,
}
for name, command in commands.items():
    app.command(name, rich_help_panel=MAIN)(command)
app.command("env", rich_help_panel=HELPERS)(env)
app.add_typer(recipes.app, name="recipes", rich_help_panel=HELPERS)
app.add_typer(data.app, name="data", rich_help_panel=HELPERS)
app.add_typer(model.app, name="model", rich_help_panel=HELPERS)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"robust {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train, attack, certify and exactly verify provably robust ReLU classifiers."""


def main() -> NoReturn:
    """Entry point of the `robust` program."""
    # OpenMP's threads spin while they wait: on a machine with other work that made small networks ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; its exit code. Set ROBUST_DEBUG=1 to see tracebacks."""
    try:
        result: Any = app(arguments, prog_name="robust", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except RobustError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _fail("out of memory\n  hint: try a smaller --batch-size", 1)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # a usage error of the option parser
            error.show()
            return int(error.exit_code)
        if type(error).__name__ == "Abort":
            return _fail("interrupted", 130)
        return _fail(
            f"internal error: {type(error).__name__}: {error}\n  hint: please report it; ROBUST_DEBUG=1 shows where", 1
        )


def _fail(message: str, code: int) -> int:
    if os.environ.get("ROBUST_DEBUG") and sys.exc_info()[0] is not None:
        import traceback

        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return code


def _terminate(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
