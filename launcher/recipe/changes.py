"""What may differ between two launches of one run: freely, once allowed by name, or never."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from launcher.recipe.schema import EarlyStoppingSection, Recipe

CARRIERS: dict[str, Any] = {
    "run": {"dir", "max_hours", "max_restarts", "timeout_seconds", "grace_seconds"},
    "model": {"gradient_checkpointing"},
    "data": {"cache_dir"},
    "train": {"micro_batch_size"},
    "evaluate": {"micro_batch_size"},
    "checkpoint": {"keep_last", "if_save_fails", "asynchronous"},
    "logging": True,
    "deepspeed": True,
    "cluster": True,
}
"""What only carries a run, as pydantic's `exclude`: other hardware, splits and limits give the same
run, so these keys may differ without asking."""

INPUT_KEYS = (
    "data",
    "data.train",
    "data.validation",
    "model",
    "model.path",
    "model.tokenizer",
    "model.chat_template",
)
"""Keys whose files can change while the recipe stays as it is."""

_OTHER_TENSORS = "it decides which tensors are trained, and the checkpoints hold others"
_OTHER_HEAD = "it decides the model's shapes, and the checkpoints hold others"
FIXED: Mapping[str, str] = {
    "run.seed": "it decides the order of the rows: some would be used twice and others never",
    "model.task": _OTHER_HEAD,
    "model.labels": _OTHER_HEAD,
    "model.add_tokens": _OTHER_HEAD,
    "method.type": _OTHER_TENSORS,
    "method.trainable": _OTHER_TENSORS,
    "method.rank": _OTHER_TENSORS,
    "method.target_modules": _OTHER_TENSORS,
    "method.modules_to_save": _OTHER_TENSORS,
    "method.dora": _OTHER_TENSORS,
    "data.validation_fraction": "rows that were trained on would be measured on",
    "train.global_batch_size": (
        "rows are counted in steps of this size: some would be used twice or never"
    ),
    "train.optimizer": "the optimizer's state in the checkpoints is of another kind",
    "early_stopping.monitor": "the best value so far is one of another metric",
}
"""Keys that can't change within a run, whatever is allowed, and why."""

_DEFAULT_MONITOR = EarlyStoppingSection.model_fields["monitor"].default

# What decides the shapes of a model's tensors, under the names that configs have for it.
_SHAPE_KEYS = (
    "model_type", "vocab_size",
    "hidden_size", "d_model", "n_embd", "dim",
    "num_hidden_layers", "num_layers", "n_layer", "n_layers",
    "num_attention_heads", "num_heads", "n_head", "n_heads", "num_key_value_heads", "head_dim",
    "intermediate_size", "d_ff", "ffn_dim", "n_inner", "hidden_dim", "num_local_experts",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One key of a recipe that is not as it was when the run was begun."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key} {json.dumps(self.before)} -> {json.dumps(self.after)}"

    @property
    def why_not(self) -> str:
        """Why this key can't change within a run; empty where it can."""
        if self.key == "early_stopping.monitor":
            # Without early stopping the same metric decides on the best checkpoint.
            values = {self.before or _DEFAULT_MONITOR, self.after or _DEFAULT_MONITOR}
            if len(values) == 1:
                return ""
        return FIXED.get(self.key, "")


def changes_between(before: Recipe, after: Recipe) -> list[Change]:
    """Return every key in which two recipes describe different runs."""
    old = _flat(before.model_dump(mode="json", exclude=CARRIERS))
    new = _flat(after.model_dump(mode="json", exclude=CARRIERS))
    keys = [*old, *(key for key in new if key not in old)]
    found = [Change(k, old.get(k), new.get(k)) for k in keys if old.get(k) != new.get(k)]
    if any(change.key == "method.type" for change in found):
        # Another method has other keys: that they differ follows.
        found = [c for c in found if c.key == "method.type" or not covers("method", c.key)]
    return found


def covers(allowed: str, key: str) -> bool:
    """Tell whether allowing `allowed` allows `key`: a key allows itself and all below it."""
    return key == allowed or key.startswith(f"{allowed}.")


def other_architecture(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the first number that gives two configs tensors of other shapes; empty if none."""
    old, new = dict(_shape_entries(before)), dict(_shape_entries(after))
    for key, value in old.items():
        if key in new and new[key] != value:
            return f"its {key} is {json.dumps(new[key])} and was {json.dumps(value)}"
    return ""


def _shape_entries(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        yield from ((key, part[key]) for key in _SHAPE_KEYS if part.get(key) is not None)


def _flat(section: Any, above: str = "") -> dict[str, Any]:
    if isinstance(section, dict):
        pairs = [(str(key), value) for key, value in section.items()]
    elif isinstance(section, list) and any(isinstance(item, dict) for item in section):
        pairs = [(str(index), value) for index, value in enumerate(section)]
    else:
        return {above.rstrip("."): section}
    flat: dict[str, Any] = {}
    for key, value in pairs:
        flat |= _flat(value, f"{above}{key}.")
    return flat
