"""A file is replaced whole, is its owner's alone, and leaves nothing beside it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.files import observed
from launcher.files.read import OddFileError
from launcher.files.write import (
    append_durably,
    filled_aside,
    link,
    open_append,
    open_emptied,
    replace_durably,
    replace_text,
    write_json,
    write_private,
)


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


@pytest.mark.parametrize("open_file", [open_append, open_emptied])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_is_not_opened(
    tmp_path: Path, open_file: Callable[[Path], object], kind: str
) -> None:
    other, path = tmp_path / "other", tmp_path / "file"
    other.write_text("old")
    if kind == "link":
        path.symlink_to(other)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(OddFileError):
        open_file(path)
    assert other.read_text() == "old"


def test_lines_are_appended_and_a_file_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "file"
    append_durably(path, ["1", "2"])
    append_durably(path, ["3"])
    assert path.read_text() == "1\n2\n3\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    inode = path.stat().st_ino
    with open_emptied(path) as file:
        file.write("new")
    assert (path.read_text(), path.stat().st_ino) == ("new", inode)


def test_a_folder_that_a_library_fills_leads_nowhere(tmp_path: Path) -> None:
    mine, folder = tmp_path / "mine.json", tmp_path / "folder"
    mine.write_text("mine")
    folder.mkdir()
    (folder / "config.json").symlink_to(mine)
    (folder / "notes").write_text("stay")
    with filled_aside(folder) as fresh:
        (fresh / "config.json").write_text("new")
    assert (folder / "config.json").read_text() == "new"
    assert mine.read_text() == "mine"
    assert (folder / "notes").read_text() == "stay"
    assert {path.name for path in tmp_path.iterdir()} == {"mine.json", "folder"}


def test_folders_among_the_files_are_replaced_and_others_put_aside(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "config.json").mkdir(parents=True)
    (folder / "config.json" / "mine").touch()
    for number in range(2):
        with filled_aside(folder) as fresh:
            (fresh / "config.json").write_text(str(number))
            (fresh / "templates").mkdir()
            (fresh / "templates" / str(number)).touch()
    assert (folder / "config.json").read_text() == "1"
    assert [path.name for path in (folder / "templates").iterdir()] == ["1"]
    (aside,) = folder.glob("config.json.*")
    assert (aside / "mine").exists()
    assert len(list(folder.iterdir())) == 3


def test_a_linked_folder_is_replaced_by_one(tmp_path: Path) -> None:
    mine, folder = tmp_path / "mine", tmp_path / "folder"
    mine.mkdir()
    folder.symlink_to(mine)
    with filled_aside(folder) as fresh:
        (fresh / "config.json").write_text("new")
    assert list(mine.iterdir()) == []
    assert (folder / "config.json").read_text() == "new"
    assert not folder.is_symlink()


def test_a_folder_that_fails_to_be_filled_stays_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("old")

    def fill() -> None:
        with filled_aside(folder) as fresh:
            (fresh / "config.json").write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fill()
    assert (folder / "config.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
