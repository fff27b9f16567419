"""A file is replaced whole, is its owner's alone, and leaves nothing beside it."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.files import observed
from launcher.files.write import link, replace_durably, replace_text, write_json, write_private


@pytest.mark.parametrize(
    "write",
    [
        lambda path: replace_text(path, "new"),
        lambda path: replace_durably(path, b"new"),
        lambda path: write_json(path, "new"),
    ],
)
def test_a_link_is_replaced_and_not_followed(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    other, path = tmp_path / "other", tmp_path / "file"
    other.write_text("old")
    path.symlink_to(other)
    write(path)
    assert other.read_text() == "old"
    assert not path.is_symlink()
    assert "new" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {entry.name for entry in tmp_path.iterdir()} == {"other", "file"}


def test_a_private_file_is_new(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        write_private(path, "secret")
    assert not (tmp_path / "elsewhere").exists()


def test_a_failed_write_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(operation: str, _path: Path, _num_bytes: int) -> None:
        if operation == "rename":
            raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(observed, "observers", [fail])
    with pytest.raises(OSError, match="Input/output"):
        replace_durably(path, b"new")
    with pytest.raises(OSError, match="Input/output"):
        link(tmp_path / "name", tmp_path / "folder")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
