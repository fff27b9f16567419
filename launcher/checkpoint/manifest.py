"""The manifest: a checkpoint exists only if its manifest does and every file in it matches."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launcher import __version__

MANIFEST = "manifest.json"
STATE = "state.json"
ENGINE_TAG = "engine"
PROBE = "probe.safetensors"


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of one file of a checkpoint."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a committed checkpoint consists of and what it belongs to."""

    step: int
    world_size: int
    zero_stage: int
    recipe_digest: str
    files: dict[str, FileRecord]
    """By path relative to the checkpoint folder."""
    launcher_version: str = __version__


def describe_files(folder: Path) -> dict[str, FileRecord]:
    """Record every file below `folder` except the manifest itself."""
    return {
        str(path.relative_to(folder)): FileRecord(path.stat().st_size, sha256_of(path))
        for path in files_below(folder)
        if path.name != MANIFEST
    }


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the regular files below a folder in a stable order."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_path(path: Path) -> None:
    """Flush one file or folder entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name, flush it and rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_path(path.parent)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Commit the checkpoint: this one rename is what makes it exist."""
    write_json(folder / MANIFEST, asdict(manifest))


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a checkpoint.

    Raises:
        OSError, ValueError, KeyError, TypeError: there is none, or it is damaged.
    """
    raw = json.loads((folder / MANIFEST).read_text())
    files = {name: FileRecord(**record) for name, record in raw.pop("files").items()}
    return Manifest(**raw, files=files)


def why_unusable(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint folder, or None if all its files match."""
    try:
        manifest = read_manifest(folder)
    except FileNotFoundError:
        return "was never committed (no manifest.json)"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"manifest.json can't be read ({error})"
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected.bytes:
            return f"{name} has {path.stat().st_size} bytes instead of {expected.bytes}"
        if sha256_of(path) != expected.sha256:
            return f"{name} is damaged (its SHA-256 differs)"
    return None
