"""`robust`, also as `python -m robustcli`."""

from __future__ import annotations

from typing import NoReturn

from robustcli.cli import signals


def main() -> NoReturn:
    """Entry point of the `robust` program: signals first, for the imports of the command line take a moment."""
    signals.listen(signals.leave)
    from robustcli.cli import app

    app.main()


if __name__ == "__main__":
    main()
