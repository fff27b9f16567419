"""What is removed is ours and lies in the folder that was given; no link leads further."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.files.remove import remove, remove_empty, remove_file


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder outside the one that things are removed from."""
    folder = tmp_path / "archive"
    folder.mkdir()
    (folder / "precious").write_text("x")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_text("x")
    return folder


def test_a_folder_goes_with_all_that_is_in_it(root: Path) -> None:
    remove(root / "a", within=root)
    assert not list(root.iterdir())


def test_of_links_only_the_links_go(root: Path, archive: Path) -> None:
    (root / "a" / "inner").symlink_to(archive)
    (root / "a" / "dangling").symlink_to(root / "nowhere")
    (root / "top").symlink_to(archive)
    remove(root / "a", within=root)
    remove(root / "top", within=root)
    assert not list(root.iterdir())
    assert (archive / "precious").exists()


@pytest.mark.parametrize("path", ["../archive", "linked/precious", "a/../../archive", "a/.."])
def test_nothing_outside_is_touched(root: Path, archive: Path, path: str) -> None:
    (root / "linked").symlink_to(archive)
    with pytest.raises(OSError, match="lies outside"):
        remove(root / path, within=root)
    assert (archive / "precious").exists()


def test_the_folder_itself_may_be_reached_by_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(root)
    remove(tmp_path / "way" / "a", within=tmp_path / "way")
    assert not list(root.iterdir())


def test_what_is_not_there_needs_no_removal(root: Path) -> None:
    remove(root / "nothing", within=root)
    remove(root / "nothing" / "below", within=root)


def test_pipes_and_odd_names_go_too(root: Path) -> None:
    os.mkfifo(root / "a" / "pipe")
    (root / "a" / b"\xff\n".decode(errors="surrogateescape")).mkdir()
    remove(root / "a", within=root)
    assert not list(root.iterdir())


def test_a_folder_that_is_not_empty_says_how_much_is_left(root: Path) -> None:
    with pytest.raises(OSError, match="1 other files are in it, file the first"):
        remove_empty(root / "a" / "b", within=root)


def test_a_file_or_a_link_goes_and_a_folder_stays(root: Path, archive: Path) -> None:
    (root / "link").symlink_to(archive)
    remove_file(root / "link", within=root)
    remove_file(root / "absent", within=root)
    (root / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        remove_file(root / "folder", within=root)
    with pytest.raises(OSError, match="lies outside"):
        remove_file(archive / "other", within=root)
    assert archive.is_dir()
    assert not (root / "link").exists()
