"""The classes that a model brings along as code, where both the recipe and the command trust it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_cached_module_file, get_class_from_dynamic_module

from launcher.errors import InputError, Problem
from launcher.files.read import read_record
from launcher.model.folder import model_folder
from launcher.recipe.schema import ModelSection


def code_class(config: PreTrainedConfig, auto_class: str, folder: Path) -> Any | None:
    """Return the class that the code of a trusted folder has for a task; None if it has none."""
    reference = (getattr(config, "auto_map", None) or {}).get(auto_class)
    if reference is None:
        return None
    return get_class_from_dynamic_module(reference, str(folder), local_files_only=True)


def fetch_code(model: ModelSection) -> None:
    """Put the code of a trusted model where it is imported from; by one process, before any rank.

    Ranks that put it there at the same time could import half a file. Nothing of it is run here.
    Raises InputError where a config names code of another repository, which nobody has pinned.
    """
    if not model.trust_remote_code:
        return
    folders = [model_folder(model.path, model.revision)]
    if model.tokenizer is not None and Path(model.tokenizer).expanduser().is_dir():
        folders.append(Path(model.tokenizer).expanduser())
    for folder in folders:
        for file, reference in _references(folder):
            if "--" in reference:
                message = f"names code of another repository: {reference}."
                cure = "Copy that code into the folder and name it without the repository."
                raise InputError(Problem(str(file), "model.trust_remote_code", message, cure))
            module_file = f"{reference.split('.')[0]}.py"
            get_cached_module_file(str(folder), module_file, local_files_only=True)


def _references(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield every `module.Class` that the configs of a folder name, with the file it stands in."""
    for file in (folder / "config.json", folder / "tokenizer_config.json"):
        if not file.is_file():
            continue
        named = read_record(file).get("auto_map") or {}
        for value in named.values() if isinstance(named, dict) else [named]:
            for reference in value if isinstance(value, list) else [value]:
                if isinstance(reference, str):
                    yield file, reference
