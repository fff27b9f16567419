"""What a local model folder says about itself in config.json, read without transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import InputError, Problem
from launcher.files.read import read_json, require_file, why_unreadable
from launcher.recipe.finding import Place

READ_WHOLE = {".json", ".txt", ".model", ".jinja", ".py"}
MOST_BYTES = 1 << 28
"""Of a file that is read whole: 256 MiB, eight times the largest tokenizer."""
# Their positions start after the padding token's index, so 514 rows hold 512 tokens.
_PADDED_POSITIONS = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "longformer")


@dataclass(frozen=True)
class ModelFacts:
    """Numbers out of a model's config.json; None where it has no such entry."""

    folder: Path
    config: dict[str, Any]
    hidden_size: int | None
    max_positions: int | None
    """Tokens in the longest row that the model has positions for."""


def read_model_facts(path: str, place: Place) -> ModelFacts | None:
    """Return the facts of a local model folder; None for a hub name.

    Raises `InputError` where a path that can't be a hub name doesn't exist, or config.json is
    missing or not JSON.
    """
    folder, where = Path(path).expanduser(), place("model.path")
    if not folder.is_dir():
        if path.startswith((".", "/", "~")):
            raise InputError(Problem(where, "model.path", f"no such folder: {path}."))
        return None
    config = _read_config(folder / "config.json", where)
    require_readable(folder, where, "model.path")
    text = config.get("text_config", config)
    text = text if isinstance(text, dict) else config
    return ModelFacts(
        folder=folder,
        config=config,
        hidden_size=_integer(text, "hidden_size", "n_embd", "d_model"),
        max_positions=_max_positions(text),
    )


def require_readable(folder: Path, place: str, key: str) -> None:
    """Look at each file of a model folder that libraries read whole, or map into memory.

    Raises:
        InputError: one is a pipe, a device, a link to nothing, or has gigabytes.
    """
    problems = []
    for path in sorted(folder.iterdir()):
        if path.suffix in READ_WHOLE or path.suffix == ".safetensors":
            try:
                require_file(path, MOST_BYTES if path.suffix in READ_WHOLE else None)
            except OSError as error:
                problems.append(
                    Problem(
                        place,
                        key,
                        f"{path} {why_unreadable(error)}.",
                        "Remove it, or put the file back.",
                    )
                )
    if problems:
        raise InputError(problems)


def _max_positions(config: dict[str, Any]) -> int | None:
    positions = _integer(config, "max_position_embeddings", "n_positions")
    if positions is not None and config.get("model_type") in _PADDED_POSITIONS:
        return positions - 1 - (_integer(config, "pad_token_id") or 0)
    return positions


def _read_config(path: Path, place: str) -> dict[str, Any]:
    try:
        config = read_json(path)
    except FileNotFoundError as error:
        message = f"{path} is missing, so {path.parent} is not a model folder."
        raise InputError(Problem(place, "model.path", message)) from error
    except (OSError, ValueError) as error:
        message = f"{path} {why_unreadable(error)}."
        raise InputError(Problem(place, "model.path", message)) from error
    if not isinstance(config, dict):
        raise InputError(Problem(place, "model.path", f"{path}: expected object."))
    return config


def _integer(config: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
