"""One class per text: topics, sentiment, intent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from launcher.data.columns import missing_columns, text_of
from launcher.data.labels import LabelIndex
from launcher.data.rows import Encoded, Encoder, RowError
from launcher.data.text import Specials, encode_wrapped
from launcher.recipe.heads import HEAD_PATTERNS
from launcher.recipe.schema import Columns, Recipe, TaskName
from launcher.tasks.interface import Batch, TaskOutput


class SequenceClassification:
    """The loss is the cross entropy of each row's class."""

    name: TaskName = "sequence-classification"
    auto_class: str = "AutoModelForSequenceClassification"
    head_patterns: tuple[str, ...] = HEAD_PATTERNS["sequence-classification"]

    def encoder(
        self, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, labels: tuple[str, ...]
    ) -> Encoder:
        """Encode the text column as the tokenizer itself would, with the index of the label."""
        specials = Specials.of(tokenizer)
        columns, index = recipe.data.columns, LabelIndex(labels)

        def encode(rows: Sequence[Mapping[str, Any]]) -> list[Encoded | RowError]:
            parsed = [_labelled(row, columns, index) for row in rows]
            texts = [item[0] for item in parsed if not isinstance(item, RowError)]
            tokens = iter(encode_wrapped(tokenizer, specials, texts))
            return [
                item if isinstance(item, RowError) else _encoded(next(tokens), item[1], specials)
                for item in parsed
            ]

        return encode

    def forward(self, model: nn.Module, batch: Batch) -> TaskOutput:
        """Statistics: sum of losses, rows, the flattened confusion matrix (true x predicted)."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        predictions = logits[batch["row_mask"]].float()
        truth = batch["label"][batch["row_mask"]]
        loss_sum = functional.cross_entropy(predictions, truth, reduction="sum")
        num_labels = logits.shape[-1]
        cells = truth * num_labels + predictions.detach().argmax(dim=-1)
        confusion = torch.bincount(cells, minlength=num_labels**2).double()
        count = torch.tensor([len(truth)], device=confusion.device, dtype=torch.float64)
        statistics = torch.cat([loss_sum.detach().double().reshape(1), count, confusion])
        return TaskOutput(loss_sum, statistics)

    def summarise(self, statistics: Tensor) -> dict[str, float]:
        """Return loss (nats per row), tokens (number of rows), accuracy and macro F1."""
        loss_sum, rows = statistics[:2].tolist()
        num_labels = math.isqrt(len(statistics) - 2)
        confusion = statistics[2:].reshape(num_labels, num_labels)
        return {
            "loss": loss_sum / rows if rows else math.nan,
            "tokens": rows,
            "accuracy": confusion.trace().item() / rows if rows else math.nan,
            "f1": macro_f1(confusion),
        }


def macro_f1(confusion: Tensor) -> float:
    """Mean F1 over the classes that occur in the truth or in the predictions.

    As scikit-learn's `f1_score(average="macro")`: every class weighs the same, however rare.
    `confusion` is (classes, classes), true x predicted.
    """
    hits = confusion.diagonal()
    occurrences = confusion.sum(dim=0) + confusion.sum(dim=1)  # predicted + true
    present = occurrences > 0
    if not present.any():
        return math.nan
    return float((2 * hits[present] / occurrences[present]).mean())


def _labelled(
    row: Mapping[str, Any], columns: Columns, index: LabelIndex
) -> tuple[str, int] | RowError:
    if row.get(columns.text) is None or row.get(columns.label) is None:
        return missing_columns(row, f"{columns.text} and {columns.label}")
    try:
        return text_of(row, columns.text), index(row[columns.label])
    except RowError as error:
        return error


def _encoded(ids: list[int], label: int, specials: Specials) -> Encoded:
    return Encoded(ids, [False] * len(ids), label, format="label", tail=len(specials.suffix))
