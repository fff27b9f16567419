"""The manifest: a checkpoint exists only if its manifest does and every file in it matches."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from launcher import __version__
from launcher.files.read import read_json, sha256_of
from launcher.files.write import FileRecord, write_json
from launcher.run_dir import MANIFEST, step_of

PROBE = "probe.safetensors"
FORMAT = 2
MOST_BYTES = 1 << 28
"""Of a manifest: it has a line for every trained tensor."""
OURS = re.compile(
    r"rank-[0-9]+\.(safetensors|json)|probe\.safetensors|manifest\.json"
    r"|\.(rank-[0-9]+|manifest)\.json\.[0-9]+(\.[0-9a-f]+)?"
)
"""Names of a checkpoint's files, also of those that a kill left half written."""
NEVER_COMMITTED = f"was never committed (no {MANIFEST})"


@dataclass(frozen=True)
class Manifest:
    """What a committed checkpoint consists of, what it belongs to, and the run's counters."""

    step: int
    world_size: int
    zero_stage: int
    recipe_digest: str
    optimizer: str
    """`adamw`, whose moments are saved element by element, or one whose state is not."""
    optimizer_step: float | None
    """Updates that the moments have seen; None before the first."""
    loss_scale: dict[str, float]
    """State of the dynamic loss scale in float16; empty otherwise."""
    parameters: dict[str, list[int]]
    """Whole shape of every trained tensor, by its name in the trained model."""
    inputs: dict[str, str]
    """Fingerprints of the data and the base model."""
    progress: dict[str, Any]
    """Counters, best evaluation and patience, as `Progress.state_dict` gives them."""
    files: dict[str, FileRecord]
    """By path relative to the checkpoint folder."""
    format: int = FORMAT
    launcher_version: str = field(default=__version__)


def rank_file(rank: int) -> str:
    """Return the name of the file with one rank's part of weights and moments."""
    return f"rank-{rank:05d}.safetensors"


def rank_record(rank: int) -> str:
    """Return the name of the file that says that one rank's part is complete."""
    return f"rank-{rank:05d}.json"


def is_ours(name: str) -> bool:
    """Tell whether a save gives a file this name."""
    return OURS.fullmatch(name) is not None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Commit the checkpoint: this one rename is what makes it exist."""
    body = asdict(manifest)
    write_json(folder / MANIFEST, {**body, "digest": _digest(body)})


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a checkpoint.

    Raises:
        OSError, ValueError, KeyError, TypeError: none, damaged, or of another format.
    """
    raw = read_json(folder / MANIFEST, MOST_BYTES)
    if raw.get("format") != FORMAT:
        saved_by = raw.get("launcher_version", "an unknown version")
        raise ValueError(f"format {raw.get('format', 1)} of launcher {saved_by}, not {FORMAT}")
    if raw.pop("digest", None) != _digest(raw):
        raise ValueError("its own digest differs")  # one flipped bit can leave valid JSON
    files = {name: FileRecord(**record) for name, record in raw.pop("files").items()}
    return Manifest(**raw, files=files)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def why_unusable(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint folder, or None if all its files match."""
    reason = why_incomplete(folder)
    if reason is not None:
        return reason
    return why_damaged(folder, read_manifest(folder).files)


def why_incomplete(folder: Path) -> str | None:
    """Return what is missing or too short in a checkpoint folder; reads the manifest alone."""
    try:
        manifest = read_manifest(folder)
    except FileNotFoundError:
        return NEVER_COMMITTED
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} can't be read ({error})"
    if folder.name.startswith("step-") and manifest.step != step_of(folder):
        return f"is the checkpoint of step {manifest.step} under another name"
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected.bytes:
            return f"{name} has {path.stat().st_size} bytes instead of {expected.bytes}"
    return None


def why_damaged(
    folder: Path, files: dict[str, FileRecord], names: Iterable[str] | None = None
) -> str | None:
    """Return which of the files (absent: all) differs from its digest; None if none does."""
    for name in files if names is None else names:
        try:
            if sha256_of(folder / name) != files[name].sha256:
                return f"{name} is damaged (its SHA-256 differs)"
        except OSError as error:
            return f"{name} can't be read ({error.strerror})"
    return None
