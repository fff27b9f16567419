"""Removes files and folders: no link is followed, and nothing outside the given folder is touched.

The tree is walked by descriptors, as `shutil.rmtree` does, so that no folder can be exchanged for a
link meanwhile. Unlike it, this stays on one file system, and tells observers of every step.
https://docs.python.org/3/library/shutil.html#shutil.rmtree
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from launcher.files.observed import announce
from launcher.files.read import real

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: Path, within: Path) -> None:
    """Remove a file, a link (never what it leads to) or a folder with all that is in it.

    What isn't there needs no removal. `within`: the folder that `path` has to lie beneath, links
    above `path` followed.

    Raises:
        OSError: something of it stays; the error names it.
    """
    require_within(path, within)
    with _folder(path.parent) as parent:
        if parent is not None:
            _remove(parent, path, os.fstat(parent).st_dev)


def remove_file(path: Path, within: Path) -> None:
    """Remove a file or a link, as `remove` does, and never a folder.

    Raises:
        OSError: it stays; IsADirectoryError where it is a folder.
    """
    require_within(path, within)
    announce("unlink", path)
    path.unlink(missing_ok=True)


def remove_empty(folder: Path, within: Path) -> None:
    """Remove a folder that nothing is left in.

    Raises:
        OSError: something is; the error says how much.
    """
    require_within(folder, within)
    announce("rmdir", folder)
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            left = sorted(path.name for path in folder.iterdir())
            text = f"{len(left)} other files are in it, {left[0]} the first"
            raise OSError(errno.ENOTEMPTY, text, str(folder)) from None
        raise


def require_within(path: Path, folder: Path) -> None:
    """Raise OSError unless `path`, links above it followed, lies beneath `folder`."""
    if path.name == ".." or not real(path.parent).is_relative_to(real(folder)):
        raise OSError(errno.EXDEV, f"lies outside {folder}", str(path))


def _remove(parent: int, path: Path, device: int) -> None:
    try:
        descriptor = os.open(path.name, FOLDER, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise _named(error, path) from None
        announce("unlink", path)
        with _naming(path), contextlib.suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=parent)
        return
    try:
        if os.fstat(descriptor).st_dev != device:
            raise OSError(errno.EXDEV, "another file system is mounted there", str(path))
        with _naming(path):
            names = sorted(os.listdir(descriptor))  # noqa: PTH208 - of a descriptor
        for name in names:
            _remove(descriptor, path / name, device)
    finally:
        os.close(descriptor)
    announce("rmdir", path)
    with _naming(path):
        os.rmdir(path.name, dir_fd=parent)


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int | None]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an error of a call by descriptor name the whole path."""
    try:
        yield
    except OSError as error:
        raise _named(error, path) from None


def _named(error: OSError, path: Path) -> OSError:
    return OSError(error.errno, error.strerror, str(path))
