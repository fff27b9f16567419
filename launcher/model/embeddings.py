"""Embeddings that grow with the vocabulary: the one place where they are resized.

transformers draws new rows from a global generator, differently with and without ZeRO-3. Here a new
row is the mean of the old ones (Hewitt 2021, https://nlp.stanford.edu/~johnhew/vocab-expansion.html),
so it changes the model's predictions least and is the same everywhere.
"""

from __future__ import annotations

from typing import cast

from torch import nn
from transformers import PreTrainedModel

from launcher.errors import InputError, Problem
from launcher.model.fresh import full_shape, gathered


def fit_vocabulary(
    model: PreTrainedModel, num_tokens: int, *, add_tokens: tuple[str, ...]
) -> tuple[str, ...]:
    """Grow the embeddings (and an output layer) to `num_tokens` rows; return what changed.

    Never shrinks: many models have more rows than tokens. Raises InputError when the tokenizer
    doesn't fit the model although the recipe adds no tokens.
    """
    num_rows = num_embeddings(model)
    if num_tokens <= num_rows:
        return ()
    if not add_tokens:
        raise InputError(
            Problem(
                "recipe",
                "model.tokenizer",
                f"the tokenizer has {num_tokens} tokens, the model only {num_rows} embedding rows.",
                "Use the model's own tokenizer, or name the new tokens in model.add_tokens.",
            )
        )
    model.resize_token_embeddings(num_tokens, mean_resizing=False)
    changed = []
    names = {id(p): name for name, p in model.named_parameters()}
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        for parameter in _tensors(layer):
            name = names[id(parameter)]
            if name not in changed:
                _fill_with_mean(parameter, num_rows)
                changed.append(name)
    return tuple(changed)


def num_embeddings(model: PreTrainedModel) -> int:
    """Return the rows of the input embedding, partitioned or not."""
    return full_shape(cast(nn.Embedding, model.get_input_embeddings()).weight)[0]


def _tensors(layer: nn.Module | None) -> list[nn.Parameter]:
    return [] if layer is None else list(layer.parameters(recurse=False))


def _fill_with_mean(parameter: nn.Parameter, num_old: int) -> None:
    with gathered([parameter]):
        old = parameter.data[:num_old]
        parameter.data[num_old:] = old.float().mean(dim=0).to(parameter.dtype)


def is_tied(model: PreTrainedModel) -> bool:
    """Tell whether the output layer is the input embedding itself."""
    output = model.get_output_embeddings()
    return output is not None and output.weight is model.get_input_embeddings().weight
