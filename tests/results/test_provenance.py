"""Provenance has a value for every key the schema asks for."""

from __future__ import annotations

import re
import subprocess
import sys

from robustcli.results.schema import Provenance
from tests.results.fabricate import documented, question, record


def test_every_key_is_filled() -> None:
    made = documented(question(), [record(0, "r")]).provenance
    assert set(made.model_dump()) == set(Provenance.model_fields)
    assert {"python", "robustcli", "torch", "numpy"} <= set(made.versions)
    assert all(made.versions.values())
    assert re.fullmatch(r".+, \d+ cores.*", made.hardware)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", made.started)
    assert made.command_line.startswith("robust")
    assert made.commit is None or re.fullmatch(r"[0-9a-f]{40}(\+changes)?", made.commit)


def test_the_results_package_imports_no_torch() -> None:
    modules = "provenance runs store merge rows collect tables text latex records validate"
    code = (
        f"import sys\nfor m in {modules.split()!r}: __import__('robustcli.results.' + m)\nprint('torch' in sys.modules)"
    )
    code += "\nimport robustcli.cli.report; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
