"""Our table of DeepSpeed's keys is compared with the installed DeepSpeed, so that it can't rot."""

from __future__ import annotations

import enum
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import pytest
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.offload_config import (
    DeepSpeedZeroOffloadOptimizerConfig,
    DeepSpeedZeroOffloadParamConfig,
)
from pydantic import BaseModel

from launcher.recipe.deepspeed_keys import (
    BF16,
    FP16,
    OFFLOAD_OPTIMIZER,
    OFFLOAD_PARAM,
    REFUSED,
    TOP_LEVEL,
    ZERO,
    Kinds,
)

PLAIN = {bool: "bool", int: "int", float: "number", str: "text", Path: "text"}


def kind(annotation: Any) -> str:
    """Return what we call a type of a field of DeepSpeed's."""
    if get_origin(annotation) in (Union, types.UnionType):
        return kind(next(part for part in get_args(annotation) if part is not type(None)))
    if annotation in PLAIN:
        return PLAIN[annotation]
    if issubclass(annotation, BaseModel):
        return "section"
    assert issubclass(annotation, enum.Enum), annotation
    return {"ZeroStageEnum": "stage", "OffloadDeviceEnum": "device"}[annotation.__name__]


@pytest.mark.parametrize(
    ("table", "model"),
    [
        (BF16, DeepSpeedBF16Config),
        (FP16, DeepSpeedFP16Config),
        (ZERO, DeepSpeedZeroConfig),
        (OFFLOAD_PARAM, DeepSpeedZeroOffloadParamConfig),
        (OFFLOAD_OPTIMIZER, DeepSpeedZeroOffloadOptimizerConfig),
    ],
)
def test_sections_have_the_keys_and_kinds_of_the_installed_models(
    table: Kinds, model: type[BaseModel]
) -> None:
    fields = {f.alias or name: kind(f.annotation) for name, f in model.model_fields.items()}
    assert table == fields


class Watched(dict[str, Any]):
    """A config that remembers which keys it was asked for; copies share the memory."""

    asked: set[str]

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def keys(self) -> Any:
        return self

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()


def test_top_level_keys_are_those_that_deepspeed_asks_for() -> None:
    config = Watched(train_batch_size=1)
    config.asked = set()
    DeepSpeedConfig(config)
    refused = {key for key in REFUSED if "." not in key}
    known = TOP_LEVEL.keys() | refused
    assert config.asked - known == set(), "DeepSpeed reads keys that we would call unknown"
    read_elsewhere = {
        "bfloat16",  # only asked for where bf16 is absent
        "pipeline",
        "sparse_attention",
    }
    assert TOP_LEVEL.keys() - config.asked - read_elsewhere == set(), "DeepSpeed no longer reads"
