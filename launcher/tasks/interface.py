"""What the launcher needs to know of a task; a new task is one file that offers this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from launcher.data.rows import Encoder
from launcher.recipe.schema import Recipe, TaskName

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

Batch = dict[str, "Tensor"]
"""`input_ids`, `attention_mask` (micro_batch_size, length), `loss_mask` (same, bool), `label` and
`row_mask` (micro_batch_size,); `row_mask` is bool: False on rows that only fill a batch."""


@dataclass(frozen=True)
class TaskOutput:
    """One forward pass of one micro-batch."""

    loss_sum: Tensor
    """Scalar float32 with its graph: sum of the losses of all targets (not their mean)."""
    statistics: Tensor
    """(n,) float64, detached, additive over micro-batches and ranks; [0] is the sum of the losses
    and [1] the number of targets."""


class Task(Protocol):
    """A training objective on top of a transformers model."""

    name: TaskName
    auto_class: str
    """Name of the transformers class that loads the model, such as `AutoModelForCausalLM`."""
    head_patterns: tuple[str, ...]
    """Shell-style patterns of the parameters of the head: what `freeze` trains by default."""

    def encoder(
        self, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, labels: tuple[str, ...]
    ) -> Encoder:
        """Return what turns a batch of rows into tokens; a bad row gives a `RowError`."""

    def forward(self, model: nn.Module, batch: Batch) -> TaskOutput:
        """Run the model; rows with `row_mask` False and tokens without target count nothing."""

    def summarise(self, statistics: Tensor) -> dict[str, float]:
        """Metrics of summed statistics: `loss`, `tokens` (number of targets) and the task's own."""
