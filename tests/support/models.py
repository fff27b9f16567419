"""Models loaded and trained without the rest of the launcher: recipe, engine, a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from launcher.model.load import LoadedModel, load_model
from launcher.recipe.schema import Recipe
from launcher.tasks.registry import task_for

LABELS = ("angry", "calm", "merry")


def model_recipe(
    path: Path, method: dict[str, Any], *, dtype: str = "float32", seed: int = 7, **model: Any
) -> Recipe:
    """Return a recipe that is complete as far as the model is concerned."""
    task = "causal-lm" if "smollm2" in str(path).lower() else "sequence-classification"
    return Recipe.model_validate(
        {
            "run": {"name": "model-test", "seed": seed},
            "model": {"path": str(path), "task": task, "dtype": dtype, **model},
            "method": method,
            "data": {"train": [{"path": "some/folder/rows.jsonl"}]},
            "train": {"max_steps": 2, "global_batch_size": 4, "micro_batch_size": 2},
            "deepspeed": "zero2",
        }
    )


def tokenizer_of(recipe: Recipe) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a recipe, with the tokens that it adds."""
    tokenizer = AutoTokenizer.from_pretrained(recipe.model.path)
    tokenizer.add_tokens(list(recipe.model.add_tokens))
    return tokenizer


def load(recipe: Recipe, zero_stage: int = 0) -> LoadedModel:
    """Load the model of a recipe on the CPU."""
    task = task_for(recipe.model.task)
    return load_model(
        recipe,
        auto_class=task.auto_class,
        head_patterns=task.head_patterns,
        labels=LABELS if recipe.model.task == "sequence-classification" else (),
        tokenizer=tokenizer_of(recipe),
        zero_stage=zero_stage,
        device=torch.device("cpu"),
    )


def engine_config(zero_stage: int, dtype: str, world_size: int) -> dict[str, Any]:
    """Return a DeepSpeed config as a resolved run has it."""
    return {
        "zero_optimization": {"stage": zero_stage},
        "bf16": {"enabled": dtype == "bfloat16"},
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 1,
        "train_batch_size": 2 * world_size,
        "gradient_clipping": 1.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def accelerator_for(recipe: Recipe, zero_stage: int, world_size: int) -> Any:
    """Join the ranks as a run does, before the model is loaded."""
    from accelerate import Accelerator, DeepSpeedPlugin, InitProcessGroupKwargs

    torch.set_num_threads(1)
    accelerator = Accelerator(
        deepspeed_plugin=DeepSpeedPlugin(
            hf_ds_config=engine_config(zero_stage, recipe.model.dtype, world_size),
            zero3_init_flag=zero_stage == 3,
        ),
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")],
    )
    assert accelerator.num_processes == world_size
    return accelerator


def engine_for(accelerator: Any, loaded: LoadedModel, zero_stage: int) -> Any:
    """Hand the model to DeepSpeed with a plain AdamW over what is trained."""
    trained = [p for p in loaded.model.parameters() if p.requires_grad]
    engine, _ = accelerator.prepare(loaded.model, torch.optim.AdamW(trained, lr=1e-3))
    assert type(engine).__name__ == "DeepSpeedEngine"
    assert engine.zero_optimization_stage() == zero_stage
    return engine


def inputs(rank: int, index: int, vocabulary: int = 1000) -> dict[str, Tensor]:
    """Return a reproducible micro-batch of two rows, one of them padded."""
    generator = torch.Generator().manual_seed(1000 * index + rank)
    ids = torch.randint(5, vocabulary, (2, 10), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def loss_of(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return a mean cross entropy: of the next tokens, or of made-up classes."""
    logits = model(**batch).logits.float()
    ids = batch["input_ids"]
    if logits.ndim == 3:
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    return nn.functional.cross_entropy(logits, ids[:, 0] % logits.shape[-1])


def train_and_evaluate(engine: Any, rank: int, num_rounds: int = 2) -> list[float]:
    """Evaluate, train two steps, and again; return every loss, the last one an evaluation's."""
    losses = []
    for _ in range(num_rounds):
        losses.append(evaluate(engine, rank))
        engine.train()
        torch.manual_seed(rank)
        for index in range(2):
            loss = loss_of(engine, inputs(rank, index))
            engine.backward(loss)
            engine.step()
            losses.append(loss.item())
    return [*losses, evaluate(engine, rank)]


@torch.no_grad()
def evaluate(engine: Any, rank: int) -> float:
    """Return the loss on rows that are never trained on."""
    engine.eval()
    return loss_of(engine, inputs(rank, 99)).item()
