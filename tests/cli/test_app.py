"""The program as a whole: what reaches the user when the system, the terminal or the user himself gets in the way."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from robustcli.cli import app
from robustcli.cli.app import run

PROGRAM = [sys.executable, "-m", "robustcli"]


def program(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *arguments], text=True, stderr=subprocess.PIPE, timeout=60, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["report", "--schema"], ["recipes", "list"], ["--version"]])
def test_full_disk_behind_stdout_is_one_clear_message(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = program(*arguments, stdout=full)
    assert done.returncode == 2
    assert done.stderr.count("error: cannot write the output: No space left on device") == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    writer = closed_pipe()
    done = program("report", "--schema", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_work_that_stopped_because_nobody_reads_its_progress_is_not_called_done(tmp_path: Path) -> None:
    writer = closed_pipe()
    command = [*PROGRAM, "train", "-r", "digits-fc-plain", "--runs", str(tmp_path)]
    done = subprocess.run(command, stdout=writer, stderr=writer, timeout=60)
    os.close(writer)
    assert done.returncode == 130


def test_closed_stdout() -> None:
    line = " ".join([*PROGRAM, "report --schema >&-"])
    done = subprocess.run(["sh", "-c", line], text=True, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


STUCK = """
import sys, time
class Stuck:  # the first import of the command line that takes its time
    def find_spec(self, name, *_):
        if name == "typer":
            print("importing", flush=True)
            time.sleep(30)
sys.meta_path.insert(0, Stuck())
from robustcli.__main__ import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_start_up_leaves_without_a_traceback(number: int) -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=-1, stderr=-1, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "importing\n"
        started.send_signal(number)
        _, said = started.communicate(timeout=10)
    assert (started.returncode, said) == (130, "error: interrupted\n")


def test_ctrl_c_between_two_steps_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("robustcli.results.collect.find_runs", interrupted)
    assert run(["report"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_refusal_of_the_system_names_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/somewhere/runs")

    monkeypatch.setattr("robustcli.results.collect.find_runs", refused)
    assert run(["report"]) == 3
    assert capsys.readouterr().err == "error: cannot use /somewhere/runs: Permission denied\n"


@pytest.mark.parametrize("name", app.commands)
def test_help_fits_80_columns_and_keeps_its_words(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run([name, "--help"]) == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in shown
    if "--runs" in shown:
        assert "ROBUST_RUNS_DIR" in shown
    # A line of prose is only as short as the next word forces it to be: nothing is broken in mid-sentence.
    prose = [line.strip() for line in lines[: next(i for i, line in enumerate(lines) if line.startswith("╭"))]]
    for line, following in itertools.pairwise(prose):
        if line and following and name in ("attack", "certify", "mip-verify", "bound-distance"):
            assert len(line) + 1 + len(following.split()[0]) > 76
