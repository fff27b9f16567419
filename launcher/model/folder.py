"""The folder a base model is read from, checked before any rank loads a tensor.

Under ZeRO-3 only rank 0 sees what is wrong with a file, and its peers would wait for it in a
collective. So everything that headers can tell is checked here, on every rank, beforehand.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from launcher.errors import InputError, Problem

KEY = "model.path"
LFS_MAGIC = b"version https://git-lfs"
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
WANTED_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


@dataclass(frozen=True)
class Tensor:
    """Where a tensor of the checkpoint lies and what it is, without its values."""

    file: Path
    shape: tuple[int, ...]


def model_folder(
    path: str, revision: str | None = None, *, download: bool = False, with_code: bool = False
) -> Path:
    """Return the folder of a local path or hub name; only `download` ever touches the network.

    A hub name resolves to its snapshot in the local cache; code is only fetched `with_code`. Raises
    InputError when there is neither.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1:
        raise _bad(path, "no such folder.", "Write an existing folder or a hub name.")
    try:
        return Path(
            snapshot_download(
                path,
                revision=revision,
                local_files_only=not download,
                allow_patterns=[*WANTED_FILES, *(["*.py"] if with_code else [])],
            )
        )
    except LocalEntryNotFoundError as error:
        raise _bad(
            path,
            "is neither a folder nor a model in the local Hugging Face cache.",
            "Fetch it first with `launcher prepare`, or write the path of a folder.",
        ) from error
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise _bad(path, f"can't be fetched from the hub: {error}.") from error


def read_headers(folder: Path) -> Mapping[str, Tensor]:
    """Return every tensor of a safetensors checkpoint by name; raise InputError on a broken one."""
    config = folder / "config.json"
    if not config.is_file():
        raise _bad(folder, "has no config.json.", "Write the folder that save_pretrained wrote.")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _bad(config, f"is not JSON: {error}.") from error
    tensors: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        tensors.update(_read_header(file))
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, AttributeError) as error:
            raise _bad(index, f"is not an index of safetensors files: {error!r}.") from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise InputError([Problem(str(index), KEY, f"shard {n} is missing.") for n in missing])
        return [folder / name for name in names]
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return [folder / SAFE_WEIGHTS_NAME]
    pickled = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLED_SUFFIXES)
    if pickled:
        raise _bad(
            folder,
            f"has only pickled weights ({pickled[0]}), which can run code when they are read.",
            "Convert to safetensors: load it where you trust it, then "
            "save_pretrained(folder, safe_serialization=True).",
        )
    raise _bad(folder, f"has no weights: neither {SAFE_WEIGHTS_NAME} nor an index of shards.")


def _read_header(file: Path) -> dict[str, Tensor]:
    """Format: https://huggingface.co/docs/safetensors/index#format."""
    with file.open("rb") as stream:
        start = stream.read(len(LFS_MAGIC))
        if start == LFS_MAGIC:
            raise _bad(file, "is a Git LFS pointer, not weights.", "Run `git lfs pull`.")
        stream.seek(0)
        length_bytes = stream.read(8)
        length = struct.unpack("<Q", length_bytes)[0] if len(length_bytes) == 8 else 0
        size = file.stat().st_size
        if not 0 < length <= size - 8:
            raise _bad(file, f"is not a whole safetensors file ({size} bytes).", "Fetch it again.")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise _bad(file, "has an unreadable safetensors header.", "Fetch it again.") from error
    header.pop("__metadata__", None)
    expected = 8 + length + max((e["data_offsets"][1] for e in header.values()), default=0)
    if size != expected:
        raise _bad(file, f"has {size} bytes where its header says {expected}.", "Fetch it again.")
    return {name: Tensor(file, tuple(entry["shape"])) for name, entry in header.items()}


def check_shapes(
    folder: Path,
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    base_model_prefix: str,
) -> None:
    """Raise one InputError with every tensor whose shape differs from the model's.

    Names are compared as they are and with the prefix that transformers adds when a bare encoder is
    loaded into a model with a head. Tensors that transformers renames or fuses are not judged here.
    """
    problems = []
    for name, tensor in tensors.items():
        for candidate in (name, f"{base_model_prefix}.{name}"):
            wanted = expected.get(candidate)
            if wanted is not None and wanted != tensor.shape:
                problems.append(
                    Problem(
                        str(tensor.file),
                        KEY,
                        f"{name} has shape {list(tensor.shape)}; the model needs {list(wanted)}.",
                        "For another number of labels, start from a model without that head."
                        if wanted[1:] == tensor.shape[1:]
                        else f"Does {folder.name}/config.json belong to these weights?",
                    )
                )
    if problems:
        raise InputError(problems)


def _bad(place: Path | str, message: str, cure: str = "") -> InputError:
    return InputError(Problem(str(place), KEY, message, cure))
