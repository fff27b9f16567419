"""The folder a base model is read from, checked before any rank loads a tensor.

Under ZeRO-3 only rank 0 sees what is wrong with a file, and its peers would wait for it in a
collective. So everything that headers can tell is checked here, on every rank, beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from launcher.errors import InputError, Problem
from launcher.files.read import read_json, why_unreadable
from launcher.recipe.weight_files import WEIGHTS, StoredTensor, read_header, weight_files

KEY = "model.path"
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
WANTED_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


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


def read_headers(folder: Path) -> Mapping[str, StoredTensor]:
    """Return every tensor of a safetensors checkpoint by name; raise InputError on a broken one."""
    config = folder / "config.json"
    if not config.is_file():
        raise _bad(folder, "has no config.json.", "Write the folder that save_pretrained wrote.")
    try:
        read_json(config)
    except (OSError, ValueError) as error:
        raise _bad(config, f"{why_unreadable(error)}.") from error
    tensors: dict[str, StoredTensor] = {}
    for file in weight_files(folder) or _no_weights(folder):
        tensors.update(read_header(file))
    return tensors


def _no_weights(folder: Path) -> NoReturn:
    pickled = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLED_SUFFIXES)
    if pickled:
        raise _bad(
            folder,
            f"has only pickled weights ({pickled[0]}), which can run code when they are read.",
            "Convert to safetensors: load it where you trust it, then "
            "save_pretrained(folder, safe_serialization=True).",
        )
    raise _bad(folder, f"has no weights: neither {WEIGHTS} nor an index of shards.")


def check_shapes(
    folder: Path,
    tensors: Mapping[str, StoredTensor],
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
