"""How far a run has come: the JSON part of a checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from launcher.train.early_stop import StopState


@dataclass
class Progress:
    """Counters of a run; the sample order needs nothing but `step`, since it is a pure function."""

    step: int = 0
    """Optimizer steps done."""
    consumed_samples: int = 0
    consumed_tokens: int = 0
    """Real tokens (no padding) seen by the model in training."""
    loss_sum: float = 0.0
    """Sum of training losses since the last evaluation."""
    loss_targets: int = 0
    """Targets behind `loss_sum`."""
    seconds: float = 0.0
    """Wall-clock time of training over all attempts."""
    skipped_steps: int = 0
    """Updates skipped because a loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    stop: StopState = field(default_factory=StopState)
    first_evaluation: dict[str, float] | None = None
    best_evaluation: dict[str, float] | None = None
    last_evaluation: dict[str, float] | None = None
    evaluated_step: int = -1
    """Step that `last_evaluation` followed."""

    def advance(
        self, consumed_samples: int, num_tokens: int, loss_sum: float, num_targets: int
    ) -> None:
        """Count one optimizer step."""
        self.step += 1
        self.consumed_samples = consumed_samples
        self.consumed_tokens += num_tokens
        self.loss_sum += loss_sum
        self.loss_targets += num_targets

    def count_skip(self, skipped: bool) -> None:
        """Count whether the engine skipped the update of this step."""
        self.skipped_steps += int(skipped)
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0

    def take_train_loss(self) -> float:
        """Return the mean training loss since the last call; NaN without an update since."""
        mean = self.loss_sum / self.loss_targets if self.loss_targets else math.nan
        self.loss_sum, self.loss_targets = 0.0, 0
        return mean

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {**self.__dict__, "stop": self.stop.state_dict()}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Progress:
        """Rebuild the state that `state_dict` gave."""
        return cls(**{**state, "stop": StopState.from_state_dict(state["stop"])})
