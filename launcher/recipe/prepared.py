"""Record that a recipe's data are prepared, and from which files.

A launch that finds these files as they were needs no process that reads the data. Equal size,
times and inode stand for an equal file, as for the digests of data files; in doubt the data are
prepared as if for the first time, which costs seconds.
"""

from __future__ import annotations

import glob
import hashlib
import json
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from launcher.files.read import read_object, real
from launcher.files.write import ensure_folder, replace_text
from launcher.recipe.resolve import ResolvedRun
from launcher.run_dir import CHAT_TEMPLATE, MANIFEST, RunDir

PACKAGES = (
    "shardlaunch", "transformers", "tokenizers", "jinja2", "numpy", "pyarrow",
    "sentencepiece", "tiktoken", "protobuf",
)  # fmt: skip
"""With another version of one of these, the same rows may give other tokens."""
RACY_SECONDS = 2.0
"""A file that changed this shortly before it was read may change again and keep its times."""
_PACKAGE = real(Path(__file__)).parents[1]
_IRRELEVANT = ("cli.py", "cluster", "plan", "metrics")
"""Parts of the launcher that don't affect prepared data."""


@dataclass(frozen=True)
class Summary:
    """Size, notes and warnings of prepared data, for a launch to print."""

    splits: Mapping[str, tuple[int, int]]
    """Rows and tokens of each split, as used."""
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def prepared_marker(resolved: ResolvedRun) -> Path:
    """Return where `launcher prepare` says in which folder the data of this recipe are.

    Recipes that differ in nothing that the data depend on share it.
    """
    recipe = resolved.recipe
    key = {
        "data": recipe.data.model_dump(mode="json", exclude={"cache_dir"}),
        "model": recipe.model.model_dump(mode="json", exclude={"gradient_checkpointing"}),
        "seed": recipe.run.seed,
        "global_batch_size": recipe.train.global_batch_size,
    }
    return Path(recipe.data.cache_dir) / "recipes" / f"{_digest(key)}.json"


def sources_state(resolved: ResolvedRun, now: float | None = None) -> str | None:
    """Return a digest that changes with everything that data are prepared from.

    None where that isn't known: a hub name may mean something newer today, code of a model may do
    anything, and a file that changed within moments of `now` (default: this one) may go on to.
    """
    now = time.time() if now is None else now
    model, data = resolved.recipe.model, resolved.recipe.data
    if model.trust_remote_code:
        return None
    files = _own_files()
    for path in (model.path, model.tokenizer):
        folder = None if path is None else Path(path).expanduser()
        if folder is not None and not folder.is_dir():
            return None
        files |= _files_below(folder) if folder is not None else set()
    for source in (*data.train, *(data.validation or ())):
        found = _files_of(source.path)
        if not found:
            return None
        files |= found
    states = _states(files)
    if states is None or any(max(s[1], s[2]) > (now - RACY_SECONDS) * 1e9 for s in states.values()):
        return None
    versions = {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}
    template = resolved.files.get(CHAT_TEMPLATE)
    # By its content: a launch reads the user's file, what it starts reads the run's copy.
    text = None if template is None else hashlib.sha256(template.data).hexdigest()
    return _digest([states, versions, text])


def mark_prepared(
    resolved: ResolvedRun,
    folder: Path,
    sources: str | None,
    inputs: Mapping[str, str],
    summary: Summary,
) -> None:
    """Say that the data lie in `folder`; `sources` is their state from before they were read."""
    marker = prepared_marker(resolved)
    ensure_folder(marker.parent)
    # Not by the time: what was written while the data were read shows in the state itself.
    unchanged = sources if sources_state(resolved, float("inf")) == sources else None
    record = {
        "cache": str(real(folder).parent),
        "folder": str(real(folder)),
        "stored": _stored_state(folder),
        "sources": unchanged,
        "inputs": dict(inputs),
        "summary": asdict(summary),
    }
    replace_text(marker, json.dumps(record))


def prepared_before(resolved: ResolvedRun, run_dir: RunDir) -> Summary | None:
    """Return what the data are if they are ready for this run; None where they must be prepared.

    They are also prepared again where the newest checkpoint was made from other inputs: that
    process compares the two, and refuses what isn't allowed.
    """
    marker = read_object(prepared_marker(resolved))
    try:
        if marker is None or marker["sources"] is None:
            return None
        if marker["sources"] != sources_state(resolved):
            return None
        if marker["stored"] is None or marker["stored"] != _stored_state(Path(marker["folder"])):
            return None
        cache = real(Path(resolved.recipe.data.cache_dir))
        if not Path(marker["folder"]).is_relative_to(cache):
            return None  # the cache was copied
        if not _fits_checkpoint(run_dir, marker["inputs"]):
            return None
        found = marker["summary"]
        splits = {str(name): (int(rows), int(n)) for name, (rows, n) in found["splits"].items()}
        return Summary(splits, tuple(found["notes"]), tuple(found["warnings"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # written by another version


def _fits_checkpoint(run_dir: RunDir, inputs: Mapping[str, str]) -> bool:
    folders = run_dir.committed
    if not folders:
        return True
    manifest = read_object(folders[-1] / MANIFEST)
    return manifest is not None and manifest.get("inputs") in ({}, inputs)


def _own_files() -> set[Path]:
    """Return this launcher's code as far as it decides: a checkout changes without a version."""
    files = _PACKAGE.rglob("*.py")
    return {file for file in files if file.relative_to(_PACKAGE).parts[0] not in _IRRELEVANT}


def _files_of(path: str) -> set[Path]:
    """Return the files of rows that a path means; none for a data set's folder or hub name."""
    file = Path(path).expanduser()
    if file.is_file():
        return {file}
    names = glob.glob(str(file), recursive=True) if glob.has_magic(path) else []  # noqa: PTH207 (may be absolute)
    return {Path(name) for name in names if Path(name).is_file()}


def _files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def _stored_state(folder: Path) -> str | None:
    states = _states([folder.parent / "done.json", *_files_below(folder)])
    return None if states is None else _digest(states)


def _states(files: Iterable[Path]) -> dict[str, list[int]] | None:
    """Return size, times and inode of each file; None where one can't be looked at."""
    states = {}
    for file in sorted(files):
        try:
            found = file.stat()
        except OSError:
            return None
        numbers = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
        states[str(file.absolute())] = numbers
    return states


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
