"""The config that the engine gets is complete, agrees with the recipe, and DeepSpeed takes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from deepspeed.runtime.config import DeepSpeedConfig

from launcher.errors import InputError
from launcher.shipped import shipped_names
from tests.unit.recipe.conftest import Resolve

SHIPPED = shipped_names("ds_configs", ".json")


def texts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for entry in value.values():
            yield from texts(entry)
    else:
        yield value


def test_what_ships() -> None:
    assert SHIPPED == ["qlora", "zero0", "zero1", "zero2", "zero3", "zero3_offload"]


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_deepspeed_reads_what_the_recipe_says(name: str, dtype: str, resolved: Resolve) -> None:
    overrides = (f"model.dtype={dtype}", "train.max_grad_norm=0.7")
    run = resolved(*overrides, deepspeed=name, processes=1)
    assert "auto" not in list(texts(run.deepspeed))
    # Through text, as the engine's process gets it.
    config = DeepSpeedConfig(json.loads(json.dumps(run.deepspeed)))
    assert config.train_batch_size == 24
    assert config.train_micro_batch_size_per_gpu == 4
    assert config.gradient_accumulation_steps == 6
    assert config.gradient_clipping == 0.7
    assert config.bfloat16_config.enabled == (dtype == "bfloat16")
    assert config.float16_config.enabled == (dtype == "float16")
    stage = 2 if name == "qlora" else int(name.removeprefix("zero")[0])
    assert config.zero_optimization_stage == run.zero_stage == stage
    assert config.bfloat16_config.check_grad_overflow is True
    assert config.zero_config.compute_grad_norm is True
    assert config.zero_allow_untested_optimizer is True
    assert config.zero_force_ds_cpu_optimizer is False
    assert config.optimizer_name is None
    assert config.scheduler_name is None
    offload = config.zero_config.offload_optimizer
    assert (offload is not None and offload.device == "cpu") == (name == "zero3_offload")


def test_no_clipping_is_written_as_zero_and_not_left_to_deepspeed(resolved: Resolve) -> None:
    run = resolved("train.max_grad_norm=0", deepspeed={})
    assert run.deepspeed["gradient_clipping"] == 0.0
    assert DeepSpeedConfig({"train_batch_size": 1}).gradient_clipping == 1.0  # why it is written


def test_bucket_sizes_follow_the_hidden_size(resolved: Resolve) -> None:
    zero = resolved(deepspeed="zero3").deepspeed["zero_optimization"]
    assert zero["reduce_bucket_size"] == 2048**2
    assert zero["stage3_prefetch_bucket_size"] == int(0.9 * 2048**2)
    assert zero["stage3_param_persistence_threshold"] == 10 * 2048
    unknown = resolved("model.path=org/name", deepspeed="zero3").deepspeed["zero_optimization"]
    assert unknown["reduce_bucket_size"] == 4096**2


def test_whole_floats_of_a_users_config_become_integers(resolved: Resolve) -> None:
    zero = {"stage": 2, "reduce_bucket_size": 5e8, "allgather_bucket_size": 2.0e8}
    filled = resolved(deepspeed={"zero_optimization": zero}).deepspeed["zero_optimization"]
    assert [type(filled[key]) for key in zero] == [int, int, int]
    assert filled["reduce_bucket_size"] == 500_000_000


def test_sections_that_agree_with_the_recipe_are_accepted_and_dropped(resolved: Resolve) -> None:
    optimizer = {
        "type": "AdamW",
        "params": {"lr": 1e-5, "weight_decay": "auto", "betas": [0.9, 0.999], "eps": 1e-8},
    }
    params = {"warmup_min_lr": 0, "warmup_max_lr": 1e-5, "warmup_num_steps": "auto"}
    scheduler = {"type": "WarmupDecayLR", "params": {**params, "total_num_steps": "auto"}}
    given = {"optimizer": optimizer, "scheduler": scheduler, "train_batch_size": 24}
    run = resolved(deepspeed=given)
    assert "optimizer" not in run.deepspeed
    assert "scheduler" not in run.deepspeed


def test_what_the_user_adds_reaches_the_engine(resolved: Resolve) -> None:
    given = {
        "zero_optimization": {"stage": 1, "round_robin_gradients": True},
        "fp16": {"enabled": "auto", "initial_scale_power": 12},
        "communication_data_type": "fp32",
    }
    run = resolved("model.dtype=float16", deepspeed=given)
    assert run.deepspeed["zero_optimization"]["round_robin_gradients"] is True
    assert run.deepspeed["fp16"] == {"enabled": True, "initial_scale_power": 12}
    assert DeepSpeedConfig(run.deepspeed | {"train_batch_size": 12}).communication_data_type in (
        torch.float32,
    )


def test_every_contradiction_names_both_places(resolved: Resolve) -> None:
    params = {"lr": 1e-4, "weight_decay": 0.1, "betas": [0.9, 0.95], "eps": 1e-6}
    given = {
        "optimizer": {"type": "AdamW", "params": params},
        "train_batch_size": 16,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 8,
        "gradient_clipping": 0,
        "fp16": {"enabled": True},
    }
    with pytest.raises(InputError) as caught:
        resolved(deepspeed=given)
    keys = {problem.key for problem in caught.value.problems}
    assert keys == {
        *(f"optimizer.params.{name}" for name in params),
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "fp16.enabled",
    }
    for problem in caught.value.problems:
        assert problem.place == "ds.json:1"
        assert "recipe.yaml:" in problem.message or "(default)" in problem.message


def test_a_secret_in_the_config_is_masked(resolved: Resolve) -> None:
    token = "hf_" + "a1B2" * 8
    with pytest.raises(InputError, match="secret in a config file") as caught:
        resolved(deepspeed={"comms_logger": {"token": token}})
    assert token not in str(caught.value)
