"""Checkpoints committed by hand, for tests of what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launcher.checkpoint.manifest import Manifest, write_manifest
from launcher.files.read import sha256_of
from launcher.files.write import FileRecord
from launcher.run_dir import MANIFEST


def commit(folder: Path, *, step: int, **fields: Any) -> Manifest:
    """Write the manifest of a folder as it is now; what isn't given is as of a small run."""
    files = {
        str(path.relative_to(folder)): FileRecord(path.stat().st_size, sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    usual: dict[str, Any] = {
        "world_size": 2,
        "zero_stage": 3,
        "recipe_digest": "digest",
        "optimizer": "adamw",
        "optimizer_step": float(step),
        "loss_scale": {},
        "parameters": {},
        "inputs": {},
        "progress": {"step": step},
    }
    manifest = Manifest(step=step, files=files, **{**usual, **fields})
    write_manifest(folder, manifest)
    return manifest
