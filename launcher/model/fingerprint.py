"""Tells whether a base model is the one that a run was begun with, without reading all of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from launcher.files.read import opened
from launcher.model.folder import model_folder
from launcher.recipe.schema import ModelSection

WHOLE_BYTES = 16 << 20
"""Files up to this size (configs, tokenizers, small weights) are read whole."""
BLOCK_BYTES = 64 << 10
NUM_BLOCKS = 64

_FILES = (
    "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json",
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "*.model", "*.jinja",
)  # fmt: skip


def model_fingerprint(model: ModelSection) -> dict[str, str]:
    """Return what identifies the base model: the commit of a hub model, else one entry a file.

    A file's entry is its size and a SHA-256. Of a large file only the start (with safetensors: the
    whole header, so every name, dtype and shape) and 64 blocks of 64 KiB spread evenly over it are
    hashed: other weights of the same shapes differ there. What this can't see is a change of a few
    tensors, or bits, between those blocks; it is a guard against mistakes, not against forgery.
    """
    folder = model_folder(model.path, model.revision)
    if not Path(model.path).expanduser().is_dir():
        return {"commit": folder.name}  # the cache names a snapshot by its commit
    patterns = (*_FILES, "*.py") if model.trust_remote_code else _FILES
    files = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return {file.name: file_fingerprint(file) for file in sorted(files)}


def file_fingerprint(file: Path) -> str:
    """Return size and digest of a file; above `WHOLE_BYTES` the digest is of samples."""
    size = file.stat().st_size
    digest = hashlib.sha256()
    with opened(file) as stream:
        if size <= WHOLE_BYTES:
            digest.update(stream.read())
            return f"{size} bytes, sha256 {digest.hexdigest()}"
        start = stream.read(8)
        digest.update(start)
        header_bytes = int.from_bytes(start, "little") if file.suffix == ".safetensors" else 0
        digest.update(stream.read(min(header_bytes, size - 8)))
        first, last = stream.tell(), size - BLOCK_BYTES
        for block in range(NUM_BLOCKS):
            stream.seek(max(first, first + (last - first) * block // (NUM_BLOCKS - 1)))
            digest.update(stream.read(BLOCK_BYTES))
    return f"{size} bytes, sampled {digest.hexdigest()}"
