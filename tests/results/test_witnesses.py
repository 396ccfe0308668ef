"""Witnesses on disk: kept bit by bit, once, in one step, and refused when damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustcli.errors import DataError
from robustcli.results.witnesses import Witness, all_witnesses, load, store


@pytest.fixture
def witness() -> Witness:
    rng = np.random.default_rng(0)
    point = rng.random((1, 4, 4))
    moved = np.clip(point + 0.1 * rng.standard_normal(point.shape), 0, 1)
    return Witness(point, moved, 17, 3, -0.25, "linf", float(abs(moved - point).max()), "ab" * 32)


def test_what_goes_in_comes_out(witness: Witness, tmp_path: Path) -> None:
    back = load(tmp_path / store(tmp_path, witness))
    assert np.array_equal(back.point, witness.point)
    assert np.array_equal(back.witness, witness.witness)
    assert back.point.dtype == back.witness.dtype == np.float64
    assert replace(back, point=witness.point, witness=witness.witness) == witness


def test_the_same_input_is_kept_once(witness: Witness, tmp_path: Path) -> None:
    name = store(tmp_path, witness)
    before = (tmp_path / name).stat().st_mtime_ns
    assert store(tmp_path, replace(witness, norm="l2", distance=1.0)) == name
    assert (tmp_path / name).stat().st_mtime_ns == before
    others = {
        store(tmp_path, replace(witness, index=18)),
        store(tmp_path, replace(witness, model="cd" * 32)),
        store(tmp_path, replace(witness, witness=witness.witness + 1e-16 + 1e-12)),
    }
    assert len(others | {name}) == 4
    assert len(list(all_witnesses(tmp_path))) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others | {name})  # nothing half-written


def test_a_missing_folder_holds_none(tmp_path: Path) -> None:
    assert list(all_witnesses(tmp_path / "none")) == []


def test_numpy_alone_reads_it(witness: Witness, tmp_path: Path) -> None:
    with np.load(tmp_path / store(tmp_path, witness), allow_pickle=False) as data:
        assert {"point", "witness", "index", "label", "margin", "norm", "distance", "model", "found_by"} == set(data)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "gone", "pickle"])
def test_damage_is_one_clear_error(witness: Witness, tmp_path: Path, damage: str) -> None:
    path = tmp_path / store(tmp_path, witness)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not an archive")
    elif damage == "gone":
        path.unlink()
    else:
        np.savez(path, point=np.array([{"run": "me"}], dtype=object))
    with pytest.raises(DataError, match=path.name):
        load(path)


def test_any_changed_byte_is_an_error_or_harmless(witness: Witness, tmp_path: Path) -> None:
    path = tmp_path / store(tmp_path, witness)
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            back = load(path)
        except DataError:
            refused += 1
        else:
            assert np.array_equal(back.witness, witness.witness)
            assert (back.name, back.label, back.margin) == (path.name, witness.label, witness.margin)
    assert refused > len(whole) // 6


def test_a_witness_has_the_shape_of_its_point(witness: Witness, tmp_path: Path) -> None:
    path = tmp_path / store(tmp_path, replace(witness, witness=witness.witness.ravel()))
    with pytest.raises(DataError, match="for a point of shape"):
        load(path)
