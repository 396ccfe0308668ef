"""`python -m robustcli` is `robust`."""

from robustcli.cli.app import main

main()
