"""Next-token prediction: instruction, chat and plain-text tuning of a language model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from launcher.data.chat import ChatEncoder
from launcher.data.columns import language_row
from launcher.data.rows import Encoded, Encoder, RowError
from launcher.data.text import Specials, encode_completions, encode_texts
from launcher.errors import InputError, Problem
from launcher.recipe.heads import HEAD_PATTERNS
from launcher.recipe.schema import Recipe, TaskName
from launcher.tasks.interface import Batch, TaskOutput

FormatEncoder = Callable[[list[Any]], Sequence[Encoded | RowError]]


class CausalLM:
    """The loss is the cross entropy of each supervised token, given the tokens before it."""

    name: TaskName = "causal-lm"
    auto_class: str = "AutoModelForCausalLM"
    head_patterns: tuple[str, ...] = HEAD_PATTERNS["causal-lm"]

    def encoder(
        self, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, labels: tuple[str, ...]
    ) -> Encoder:
        """Encode chats, prompt/completion pairs and plain text, by the columns a row has."""
        specials = Specials.of(tokenizer)
        encoders: dict[str, FormatEncoder] = {
            "chat": _chat_encoder(recipe, tokenizer),
            "prompt": partial(encode_completions, tokenizer, specials),
            "text": partial(encode_texts, tokenizer, specials),
        }

        def encode(rows: Sequence[Mapping[str, Any]]) -> list[Encoded | RowError]:
            parsed = [language_row(row, recipe.data.columns) for row in rows]
            encoded: dict[int, Encoded | RowError] = {
                i: item for i, item in enumerate(parsed) if isinstance(item, RowError)
            }
            for name, encode_format in encoders.items():
                # the tokenizer is called once per format, not once per row
                chosen = {
                    i: item[1]
                    for i, item in enumerate(parsed)
                    if not isinstance(item, RowError) and item[0] == name
                }
                if chosen:
                    encoded.update(zip(chosen, encode_format(list(chosen.values())), strict=True))
            return [encoded[i] for i in range(len(rows))]

        return encode

    def forward(self, model: nn.Module, batch: Batch) -> TaskOutput:
        """Statistics: sum of losses, number of targets, targets that were the likeliest token."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        is_target = batch["loss_mask"][:, 1:] & batch["row_mask"][:, None]
        # Only what has loss is upcast: float32 logits of every position would be the largest
        # tensor of the step. An empty selection still has a graph to every parameter, so that a
        # rank with filler rows alone takes part in the same collectives as the others.
        predictions = logits[:, :-1][is_target].float()
        targets = batch["input_ids"][:, 1:][is_target]
        loss_sum = functional.cross_entropy(predictions, targets, reduction="sum")
        correct = (predictions.detach().argmax(dim=-1) == targets).sum()
        count = torch.tensor(len(targets), device=loss_sum.device)
        statistics = torch.stack([loss_sum.detach().double(), count.double(), correct.double()])
        return TaskOutput(loss_sum, statistics)

    def summarise(self, statistics: Tensor) -> dict[str, float]:
        """Return loss (nats per target), tokens, perplexity, and accuracy of the next token."""
        loss_sum, tokens, correct = statistics.tolist()
        loss = loss_sum / tokens if tokens else math.nan
        return {
            "loss": loss,
            "tokens": tokens,
            "perplexity": math.exp(min(loss, 700.0)),  # exp overflows a float beyond 709
            "accuracy": correct / tokens if tokens else math.nan,
        }


def _chat_encoder(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> FormatEncoder:
    if not tokenizer.is_fast or not tokenizer.chat_template:
        lack = "no chat template" if tokenizer.is_fast else "no character offsets (not a fast one)"

        def refuse(chats: list[Any]) -> list[Encoded | RowError]:
            raise InputError(
                Problem(
                    recipe.model.tokenizer or recipe.model.path,
                    "model.chat_template",
                    f"the data are chats, but the tokenizer has {lack}.",
                    "Name a Jinja file there, or the tokenizer of a chat model in model.tokenizer.",
                )
            )

        return refuse
    return ChatEncoder(tokenizer).encode
