"""Recipes, DeepSpeed configs and job templates that come with the package, found by name."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
_FOLDERS = ("recipes", "ds_configs", "slurm")


def shipped_folder(folder: str) -> Path:
    """Return the folder of shipped files: in the installed package, else in the checkout."""
    assert folder in _FOLDERS, folder
    installed = PACKAGE / "_shipped" / folder
    return installed if installed.is_dir() else PACKAGE.parent / folder


def shipped_names(folder: str, suffix: str) -> list[str]:
    """Return the names (without suffix) of what ships in `folder`, sorted."""
    return sorted(path.stem for path in shipped_folder(folder).glob(f"*{suffix}"))


def find_file(name: str, folder: str, suffix: str, beside: Path | None = None) -> Path | None:
    """Return the file that `name` means, or None.

    First relative to `beside` (default: where the command is run), then a shipped one: `zero2`,
    `zero2.json` and `ds_configs/zero2.json` all name the same file.
    """
    given = Path(name).expanduser()
    here = (beside or Path()) / given
    if here.is_file():
        return here
    if not given.is_absolute() and given.parent.parts in ((), (folder,)):
        name = given.name if given.suffix == suffix else given.name + suffix
        shipped = shipped_folder(folder) / name
        if shipped.is_file():
            return shipped
    return here if here.exists() else None  # a folder: the reader says what is wrong with it
