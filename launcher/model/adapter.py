"""LoRA adapters through peft: which modules get one, and the numbers they start from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import deepspeed
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from launcher.errors import InputError, Problem
from launcher.model.embeddings import is_tied
from launcher.model.fresh import full_shape, gathered, kaiming_uniform, normal, set_values
from launcher.model.trainable import covering_modules, nearest
from launcher.recipe.schema import LoraMethod

TASK_TYPES = {
    "AutoModelForCausalLM": "CAUSAL_LM",
    "AutoModelForSequenceClassification": "SEQ_CLS",
}


def add_adapter(
    model: PreTrainedModel,
    method: LoraMethod,
    *,
    auto_class: str,
    saved_modules: Sequence[str],
    new_token_ids: Sequence[int],
    seed: int,
    dtype: torch.dtype,
    sharded: bool,
) -> PeftModel:
    """Wrap the model with adapters whose first values are the same on every rank and ZeRO stage.

    `saved_modules` (heads) are trained in full besides the recipe's own; of the embeddings only the
    rows of `new_token_ids` are. `sharded` is True under ZeRO-3. Raises InputError for names that
    match no module.
    """
    saved = [*saved_modules, *(m for m in method.modules_to_save if m not in saved_modules)]
    check_names(model, method)
    # peft takes any number, and says int; whole numbers are written without a point.
    alpha: Any = int(method.alpha) if float(method.alpha).is_integer() else method.alpha
    config = LoraConfig(
        r=method.rank,
        lora_alpha=alpha,
        lora_dropout=method.dropout,
        target_modules=target_modules(model, method.target_modules, saved),
        modules_to_save=saved or None,
        trainable_token_indices=_token_rows(model, new_token_ids),
        use_dora=method.dora,
        use_rslora=method.rslora,
        bias="none",
        task_type=TASK_TYPES.get(auto_class),
    )
    # peft would cast adapters to float32 beside a bf16 base. DeepSpeed wants one dtype in a flat
    # buffer, and its optimizer keeps float32 masters of what is trained: nothing is lost.
    setattr(TrainableTokensLayer, "_collect_token_weights", _collect_rows)  # noqa: B010 - a method
    adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            _unify(name, parameter, seed, dtype)
    if sharded:
        _declare_borrowed_weights(adapted)
    if config.modules_to_save:
        # peft appends its own names of classification heads, whether they are there already or not.
        config.modules_to_save = sorted(set(config.modules_to_save))
    return adapted.eval()


def _unify(name: str, parameter: nn.Parameter, seed: int, dtype: torch.dtype) -> None:
    """Give an adapter tensor the model's dtype, and our values where peft draws random ones."""
    if parameter.dtype != dtype:
        parameter.data = parameter.data.to(dtype)
    if ".lora_A." in name:
        set_values(parameter, kaiming_uniform(seed, name, full_shape(parameter)))
    elif ".lora_embedding_B." in name:
        set_values(parameter, normal(seed, name, full_shape(parameter), std=1.0))


def _declare_borrowed_weights(model: PeftModel) -> None:
    """Tell ZeRO-3 which layers of peft read weights that aren't their own parameters.

    DeepSpeed gathers a module's own parameters only; this is its way to name others:
    https://deepspeed.readthedocs.io/en/latest/zero3.html#registering-external-parameters
    """
    for module in model.modules():
        borrowed: list[tuple[nn.Module, Any]] = [
            (dora, cast(nn.Linear, module.base_layer).weight)
            for dora in getattr(module, "lora_magnitude_vector", {}).values()
        ]
        if isinstance(module, TrainableTokensLayer):
            borrowed.append((module, module.base_layer.weight))
            borrowed += [(module, delta) for delta in module.trainable_tokens_delta.values()]
        for name in ("lora_embedding_A", "lora_embedding_B"):
            borrowed += [(module, own) for own in getattr(module, name, {}).values()]
        for reader, weight in borrowed:
            deepspeed.zero.register_external_parameter(reader, weight)


def _collect_rows(_: TrainableTokensLayer, weight: nn.Parameter, rows: Any, __: int) -> Tensor:
    """Copy rows of an embedding that ZeRO-3 has partitioned; peft's own way needs CUDA."""
    with gathered([weight], write=False):
        return weight[rows].detach().clone()


def linear_names(model: nn.Module) -> list[str]:
    """Return the full names of all linear layers, quantised or not."""
    return [n for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)]


def target_modules(
    model: PreTrainedModel, wanted: str | Sequence[str], saved: Sequence[str]
) -> list[str]:
    """Return what peft shall match: the last parts of the names where these say it exactly.

    `all-linear` is every linear layer but the output layer and what is trained in full.
    """
    if wanted != "all-linear":
        return list(wanted)
    output = model.get_output_embeddings()
    linear = linear_names(model)
    targets = [
        name
        for name in linear
        if model.get_submodule(name) is not output and not any(_inside(name, s) for s in saved)
    ]
    last_parts = sorted({name.rsplit(".", 1)[-1] for name in targets})
    if {n for n in linear if n.rsplit(".", 1)[-1] in last_parts} == set(targets):
        return last_parts
    return targets


def check_names(model: nn.Module, method: LoraMethod) -> None:
    """Raise one InputError for every module name of the recipe that matches nothing."""
    names = [name for name, _ in model.named_modules() if name]
    wanted = {"method.modules_to_save": method.modules_to_save}
    if not isinstance(method.target_modules, str):
        wanted["method.target_modules"] = method.target_modules
    last_parts = {name.rsplit(".", 1)[-1] for name in names if not name[-1].isdigit()}
    problems = [
        Problem(
            "recipe",
            key,
            f'"{target}" matches no module of the model.',
            f"Nearest: {nearest(target, names if '.' in target else last_parts)}.",
        )
        for key, targets in wanted.items()
        for target in targets
        if not matching_modules(names, target)
    ]
    if problems:
        raise InputError(problems)


def matching_modules(names: Iterable[str], target: str) -> list[str]:
    """Return the modules that peft takes `target` for: the name itself, or its last parts."""
    return [name for name in names if name == target or name.endswith(f".{target}")]


def _inside(name: str, module: str) -> bool:
    """Tell whether `name` is `module`, lies in it, or in a module whose last parts are `module`."""
    return f".{module}." in f".{name}."


def _token_rows(model: PreTrainedModel, ids: Sequence[int]) -> dict[str, list[int]] | None:
    if not ids:
        return None
    embeddings = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embeddings)
    return {name.rsplit(".", 1)[-1]: list(ids)}


def saved_modules(
    model: PreTrainedModel, heads: Sequence[str], missing: Sequence[str], grown: Sequence[str]
) -> list[str]:
    """Return the modules that adapters leave alone and that are trained in full instead."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    output_layer = [] if is_tied(model) else module_name(model, model.get_output_embeddings())
    grown_output = [m for m in output_layer if any(name.startswith(f"{m}.") for name in grown)]
    return list(dict.fromkeys([*heads, *covering_modules(names, missing), *grown_output]))


def new_token_ids(
    tokenizer: PreTrainedTokenizerBase, add_tokens: Sequence[str], num_known: int
) -> list[int]:
    """Return the ids of the recipe's own tokens and of whatever had no row in the model."""
    if not add_tokens:
        return []
    vocabulary = tokenizer.get_vocab()
    return sorted({*(vocabulary[t] for t in add_tokens), *range(num_known, len(tokenizer))})


def module_name(model: PreTrainedModel, wanted: nn.Module | None) -> list[str]:
    """Return the full name of a module, as a list; empty for None."""
    return [name for name, module in model.named_modules() if module is wanted]
