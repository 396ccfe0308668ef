"""Appended lines: whole or not at all, also on a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from robustcli import files
from robustcli.errors import UsageError


def test_a_torn_last_line_is_closed_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lines.jsonl"
    files.append_lines(path, ['{"a": 1}'])
    with path.open("a") as file:
        file.write('{"b": ')
    files.append_lines(path, ['{"c": 3}', '{"d": 4}'])
    assert list(files.read_lines(path)) == [{"a": 1}, {"c": 3}, {"d": 4}]
    assert path.read_text() == '{"a": 1}\n{"b": \n{"c": 3}\n{"d": 4}\n'


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines.jsonl"
    files.append_lines(path, ['{"a": 1}'])
    write, room = os.write, [5]

    def little_room(file: int, content: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(file, content[: room[0]])
        room[0] -= done
        return done

    monkeypatch.setattr(os, "write", little_room)
    with pytest.raises(UsageError, match="No space left on device"):
        files.append_lines(path, ['{"b": 2}', '{"c": 3}'])
    monkeypatch.undo()
    assert path.read_text() == '{"a": 1}\n'
