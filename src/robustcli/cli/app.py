"""`robust`: the six commands and their helpers. Errors become one message and a documented exit code here."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from robustcli import __version__
from robustcli.allocator import keep_memory
from robustcli.cli import data, model, recipes, signals
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

REPORT = "please report it; ROBUST_DEBUG=1 shows where"

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
    # OpenMP's threads spin while they wait. Beside other work that costs a factor of ten; without it, waiting passively
    # costs a fifth (benchmarks/README.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_memory()
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    signals.listen(signals.interrupt)
    code = run(sys.argv[1:])
    signals.listen(signal.SIG_IGN)  # all is said and done; only the interpreter is left to end
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command line; its exit code. Set ROBUST_DEBUG=1 to see tracebacks."""
    try:
        result: Any = app(arguments, prog_name="robust", standalone_mode=False)
        sys.stdout.flush()
        if result == 130:  # what the option parser makes of Ctrl-C
            return _fail("interrupted", 130)
        return result if isinstance(result, int) else 0
    except RobustError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        return _reader_gone()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # what the option parser makes of it
            return _reader_gone()
        raise
    except OSError as error:
        return _system(error)
    except MemoryError:
        return _fail("out of memory\n  hint: try a smaller --batch-size", 1)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # a usage error of the option parser
            error.show()
            return int(error.exit_code)
        if type(error).__name__ == "Abort":
            return _fail("interrupted", 130)
        return _fail(f"internal error: {type(error).__name__}: {error}\n  hint: {REPORT}", 1)


def _fail(message: str, code: int) -> int:
    if os.environ.get("ROBUST_DEBUG") and sys.exc_info()[0] is not None:
        import traceback

        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return code


def _reader_gone() -> int:
    """Whoever read the output closed it (`robust report | head`): fine, unless progress went there and work stopped."""
    stopped = False
    if hasattr(select, "poll"):
        progress = select.poll()
        progress.register(2, 0)  # a closed pipe is always reported
        stopped = bool(progress.poll(0))
    _discard(*((1, 2) if stopped else (1,)))
    return 130 if stopped else 0


def _system(error: OSError) -> int:
    """A refusal of the operating system that no command foresaw."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        return _fail(f"cannot use {error.filename}: {reason}", 3)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        _discard(1)
        return _fail(f"cannot write the output: {reason}\n  hint: free space, or write somewhere else", 2)
    return _fail(f"internal error: {type(error).__name__}: {error}\n  hint: {REPORT}", 1)


def _discard(*streams: int) -> None:
    """Send what is still buffered for these file descriptors nowhere, so that the interpreter can end in peace."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream)
    os.close(nowhere)


if __name__ == "__main__":
    main()
