"""Makes run folders that look like real ones: what the report and its tests are shown.

The curves are formulas with seeded noise: a loss that falls, a validation loss that turns up again
at two thirds, two restarts. `python -m tests.support.sample_run FOLDER` writes one and its report.
"""

from __future__ import annotations

import json
import math
import random
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from launcher.metrics.jsonl import JsonlWriter
from launcher.metrics.record import EvaluationRecord, Event, TrainRecord
from launcher.run_dir import RunDir

Outcome = Literal["early_stopped", "finished", "running", "failed"]

TOTAL_STEPS, STEPS_PER_EPOCH, EVERY = 480, 96, 16
PEAK_RATE, WARMUP = 2e-5, 24
BEGAN = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
RECIPE = """\
run:
  name: support-topics  # recipe.yaml:4
  seed: 42  # default
  dir: runs  # default
model:
  path: models/minilm-l6  # recipe.yaml:7
  task: sequence-classification  # recipe.yaml:8
  dtype: bfloat16  # default
method:
  type: full  # recipe.yaml:10
data:
  train:
    - {path: data/train.jsonl, split: train, weight: 1.0}
  max_seq_len: 128  # --set data.max_seq_len=128
train:
  num_epochs: 5  # recipe.yaml:15
  global_batch_size: 16  # recipe.yaml:16
  micro_batch_size: 4  # recipe.yaml:17
  learning_rate: 2e-05  # default
  schedule: linear  # default
  max_grad_norm: 1.0  # default
early_stopping:
  monitor: validation/loss  # default
  patience: 3  # recipe.yaml:21
deepspeed: zero2  # recipe.yaml:22
"""
LABELS = {
    "greetings": 214, "science": 188, "movies": 171, "history": 150, "food": 133, "health": 121,
    "sports": 117, "politics": 96, "computers": 92, "psychology": 81, "literature": 67, "money": 48,
    "gossip": 31, "trivia": 27,
}  # fmt: skip
DATA: dict[str, Any] = {
    "task": "sequence-classification",
    "train": {
        "rows": 1562, "used": 1536, "dropped": {"empty text": 19, "no label": 7}, "truncated": 41,
        "formats": {"text and label": 1562}, "truncated_share": 41 / 1536, "cut_tokens": 2210,
        "lengths": {"min": 4, "p50": 21, "p90": 67, "p99": 126, "max": 128}, "tokens": 45_812,
        "labels": LABELS,
    },
    "validation": {
        "rows": 260, "used": 260, "dropped": {}, "truncated": 5, "truncated_share": 5 / 260,
        "formats": {"text and label": 260}, "cut_tokens": 122,
        "lengths": {"min": 5, "p50": 22, "p90": 65, "p99": 119, "max": 128}, "tokens": 7_702,
        "labels": {name: max(1, count // 6) for name, count in LABELS.items()},
    },
    "notes": [],
    "warnings": ["26 of 1562 training rows dropped: 19 empty text, 7 no label."],
    "sample": {
        "pieces": [
            {"supervised": False, "text": "[CLS] what is the difference between a comet and an "
             "asteroid? a comet is made of ice and dust, an asteroid of rock. [SEP]"},
        ],
        "tokens": 31,
        "label": "science",
    },
    "cache": ".launcher-cache/5f2c",
}  # fmt: skip


@dataclass
class Writer:
    """Writes the records of one sample run, attempt by attempt."""

    run_dir: RunDir
    noise: random.Random
    seconds: float = 0.0

    def attempt(self, resume_step: int, last_step: int) -> None:
        """Train from a checkpoint to wherever the attempt ends."""
        jsonl = JsonlWriter(self.run_dir, resume_step=resume_step)
        self._event(jsonl, "start", resume_step, START)
        if resume_step == 0:
            jsonl.evaluation(evaluation(0))
        best = math.inf
        for step in range(resume_step + 1, last_step + 1):
            jsonl.train(self._step(step))
            if step % EVERY == 0:
                record = evaluation(step)
                jsonl.evaluation(record)
                self._event(jsonl, "checkpoint", step, {"path": f"step-{step:06d}"})
                if record.metrics["validation/loss"] < best:
                    best = record.metrics["validation/loss"]
                    self._event(jsonl, "evaluation_best", step, dict(record.metrics))
        jsonl.close()

    def event(self, kind: str, step: int, **fields: Any) -> None:
        """Add one event after the attempts."""
        jsonl = JsonlWriter(self.run_dir, resume_step=step)
        self._event(jsonl, kind, step, fields)
        jsonl.close()

    def _event(self, jsonl: JsonlWriter, kind: str, step: int, fields: dict[str, Any]) -> None:
        time = (BEGAN + timedelta(seconds=self.seconds)).isoformat(timespec="milliseconds")
        jsonl.event(Event(kind, time, step, fields))

    def _step(self, step: int) -> TrainRecord:
        seconds = 0.62 * self.noise.uniform(0.9, 1.15) * (2.2 if step % STEPS_PER_EPOCH == 1 else 1)
        self.seconds += seconds
        tokens = 16 * 30
        return TrainRecord(
            step=step,
            epoch=step / STEPS_PER_EPOCH,
            consumed_samples=step * 16,
            consumed_tokens=step * tokens,
            loss=train_loss(step) * self.noise.lognormvariate(0, 0.16),
            learning_rate=rate(step),
            grad_norm=(0.7 + 2.4 * math.exp(-step / 60)) * self.noise.lognormvariate(0, 0.28),
            tokens_per_second=tokens / seconds,
            step_seconds=seconds,
            peak_memory_bytes=int((1.31 + 0.22 * (1 - math.exp(-step / 40))) * 2**30),
        )


START = {
    "world_size": 2,
    "num_nodes": 1,
    "engine": "DeepSpeedEngine",
    "zero_stage": 2,
    "device": "cpu",
    "method": "full",
    "micro_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "total_steps": TOTAL_STEPS,
    "trainable_parameters": 22_718_606,
    "total_parameters": 22_718_606,
    "new_tensors": 2,
}


def train_loss(step: int) -> float:
    """Falls all the way."""
    return 0.16 + 2.48 * math.exp(-step / 88)


def validation_loss(step: int) -> float:
    """Turns up again when the model starts to know the training rows by heart."""
    return 0.58 + 2.06 * math.exp(-step / 80) + 0.42 * max(0.0, (step - 230) / 200) ** 1.5


def evaluation(step: int) -> EvaluationRecord:
    """Return the evaluation after a step."""
    wobble = 0.012 * math.sin(step * 1.7)
    accuracy = 0.09 + 0.75 * (1 - math.exp(-step / 75)) + wobble
    return EvaluationRecord(
        step,
        {
            "validation/loss": validation_loss(step) + wobble,
            "validation/tokens": 260.0,
            "validation/accuracy": accuracy,
            "validation/f1": accuracy - 0.05 * math.exp(-step / 200),
        },
    )


def rate(step: int) -> float:
    """Linear warm-up, then linear to zero."""
    if step <= WARMUP:
        return PEAK_RATE * step / WARMUP
    return PEAK_RATE * (TOTAL_STEPS - step) / (TOTAL_STEPS - WARMUP)


def write_sample_run(root: Path, outcome: Outcome = "early_stopped", seed: int = 1) -> RunDir:
    """Write a run folder; its best step is where the formulas have their minimum."""
    run_dir = RunDir(root)
    root.mkdir(parents=True)
    run_dir.resolved.write_text(RECIPE)
    run_dir.data_report.write_text(json.dumps(DATA))
    writer = Writer(run_dir, random.Random(seed))
    if outcome == "failed":
        writer.attempt(0, 57)
        _fail(run_dir, writer, step=57)
        return run_dir
    writer.attempt(0, 118)
    writer.seconds += 95
    writer.attempt(112, 237)
    writer.seconds += 41
    last_step = 272 if outcome == "running" else 320
    writer.attempt(224, last_step)
    if outcome == "running":
        return run_dir
    best = min(range(EVERY, last_step + 1, EVERY), key=lambda step: _loss(step))
    overfitting = outcome == "early_stopped"
    if overfitting:
        writer.event("overfitting", last_step, since_step=best + EVERY)
        writer.event("early_stop", last_step, message="no improvement in 3 evaluations")
    writer.event("export", last_step, path="export", files=5)
    writer.event("finish", last_step, outcome=outcome)
    summary = {
        "outcome": outcome,
        "step": last_step,
        "best": {"step": best, "metric": "validation/loss", "value": _loss(best)},
        "overfitting_since": best + EVERY if overfitting else None,
        "seconds": writer.seconds,
        "first_evaluation": dict(evaluation(0).metrics),
        "best_evaluation": dict(evaluation(best).metrics),
        "last_evaluation": dict(evaluation(last_step).metrics),
        "skipped_steps": 0,
        "export": "export",
    }
    run_dir.summary.write_text(json.dumps(summary))
    return run_dir


def _loss(step: int) -> float:
    return evaluation(step).metrics["validation/loss"]


def _fail(run_dir: RunDir, writer: Writer, step: int) -> None:
    run_dir.logs(1).root.mkdir(parents=True)
    when = BEGAN + timedelta(seconds=writer.seconds + 1)
    failure = {
        "time": when.timestamp(),
        "rank": 1,
        "host": "node-2",
        "kind": "TrainingError",
        "message": f"step {step}: the gradient norm is nan. Look at the rows of this step.",
        "traceback": "Traceback (most recent call last):\n  ...\nTrainingError: step 57\n",
    }
    run_dir.logs(1).failure(1).write_text(json.dumps(failure))


if __name__ == "__main__":
    from launcher.metrics.report import build_report

    chosen: Any = sys.argv[2] if len(sys.argv) > 2 else "early_stopped"
    print(build_report(write_sample_run(Path(sys.argv[1]), chosen)))
