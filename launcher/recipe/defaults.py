"""Values that depend on other values: what a recipe means where it says nothing."""

from __future__ import annotations

from launcher.recipe.schema import Recipe

WARMUP_RATIO = 0.03

# Full fine-tuning at 2e-5 is what BERT-type and Llama-type recipes agree on; adapters start from
# zero and take ten times that (Hu et al. 2021; Dettmers et al. 2023); a fresh head on frozen
# features takes more still.
LEARNING_RATES = {"full": 2e-5, "lora": 2e-4, "qlora": 2e-4, "freeze": 1e-3}

FORGETTING_RATE = 1e-4
"""Full fine-tuning above this rate tends to erase what the base model knew."""


def learning_rate(recipe: Recipe) -> float:
    """Return the peak rate: the recipe's, else the usual one of its method."""
    given = recipe.train.learning_rate
    return LEARNING_RATES[recipe.method.type] if given is None else given


def fill_defaults(recipe: Recipe) -> Recipe:
    """Return the recipe with every number written out that doesn't need the size of the data."""
    train = recipe.train
    filled: dict[str, object] = {"learning_rate": learning_rate(recipe)}
    if train.warmup_steps is None and train.warmup_ratio is None:
        filled["warmup_ratio"] = WARMUP_RATIO
    evaluate = recipe.evaluate
    if evaluate.micro_batch_size is None:
        evaluate = evaluate.model_copy(update={"micro_batch_size": train.micro_batch_size})
    return recipe.model_copy(
        update={"train": train.model_copy(update=filled), "evaluate": evaluate}
    )


def world_size(recipe: Recipe, processes: int | None, gpus_here: int = 0) -> int:
    """Return the number of ranks: as asked, else nodes x GPUs, else nodes x CPU ranks."""
    cluster = recipe.cluster
    per_node = cluster.gpus_per_node or gpus_here or cluster.cpu_ranks
    return processes or cluster.num_nodes * per_node
