"""Published and shipped networks: addresses, checksums, offline behaviour, without the network."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robustcli.errors import CheckpointError, UnknownNameError
from robustcli.networks import architectures, published, shipped
from robustcli.networks.published import PUBLISHED, Published


@pytest.fixture
def item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """A published network whose file is the bytes b'weights'; downloads go to tmp_path/models."""
    made = replace(PUBLISHED["kw_mnist"], name="made", sha256=hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setitem(PUBLISHED, "made", made)
    monkeypatch.setenv("ROBUST_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


@pytest.mark.parametrize("name", published.names())
def test_entries_are_complete(name: str) -> None:
    from robustcli.data.specs import spec

    entry = published.published(name)
    assert len(entry.commit) == 40
    assert len(entry.sha256) == 64
    assert entry.url.startswith("https://raw.githubusercontent.com/")
    declared = spec(entry.dataset)
    architectures.description(entry.architecture, declared.input_shape, declared.classes)
    assert published.by_sha256(entry.sha256) is entry


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'kw_mnist'"):
        published.fetch("kw-mnist")


def test_a_file_put_by_hand_is_taken_under_either_name(item: Published, tmp_path: Path) -> None:
    for name in ("made.pth", "mnist.pth"):
        path = tmp_path / "models" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"weights")
        assert published.fetch("made") == (path, False)
        path.unlink()


def test_an_altered_file_is_refused(item: Published, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "made.pth").write_bytes(b"other")
    with pytest.raises(CheckpointError, match="its sha256 differs"):
        published.fetch("made")


def test_offline_says_what_to_put_where(item: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch
    import requests

    def refuse(*_: Any) -> None:
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(pooch, "retrieve", refuse)
    with pytest.raises(CheckpointError) as caught:
        published.fetch("made")
    text = str(caught.value)
    assert item.url in text
    assert str(tmp_path / "models" / "made.pth") in text


@pytest.mark.parametrize("content", [b"weights", b"tampered"])
def test_downloads_are_checked(
    item: Published, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pooch

    def download(url: str, output_file: str, pooch: object) -> None:
        assert url == item.url
        Path(output_file).write_bytes(content)

    monkeypatch.setattr(pooch.core, "choose_downloader", lambda url, progressbar=False: download)
    if content == b"weights":
        assert published.fetch("made") == (tmp_path / "models" / "made.pth", True)
    else:
        with pytest.raises(CheckpointError, match="is not the file of sha256"):
            published.fetch("made")
        assert not any((tmp_path / "models").iterdir())


def test_shipped_networks_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "folder", lambda: tmp_path)
    (tmp_path / "digits-cnn.safetensors").write_bytes(b"")
    assert shipped.names() == ["digits-cnn"]
    assert shipped.find("digits-cnn") == tmp_path / "digits-cnn.safetensors"
    assert shipped.find("../x") is None
    monkeypatch.setattr(shipped, "folder", lambda: None)
    assert shipped.names() == []
    assert shipped.find("digits-cnn") is None


def test_the_shipped_folder_of_a_checkout_is_models() -> None:
    folder = shipped.folder()
    assert folder is not None
    assert (folder / "README.md").exists()


def test_shipped_networks_load_under_their_recipes() -> None:
    """Of the recipe as it is now: one that changed since refuses its network."""
    from robustcli.networks.checkpoints import load
    from robustcli.recipes.loading import load as load_recipe

    for name in shipped.names():
        path = shipped.find(name)
        assert path is not None
        metadata = load(path).metadata
        assert metadata.recipe == name
        assert metadata.recipe_hash == load_recipe(name).hash


def test_no_torch_is_imported() -> None:
    modules = "architectures, metadata, origin, published, shipped"
    imports = f"import sys, robustcli.cli.model; from robustcli.networks import {modules}"
    code = f"{imports}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
