"""What the tables of bad inputs share: a right recipe, a right config, and how to spoil them."""

from __future__ import annotations

from dataclasses import dataclass

RECIPE = """\
run:
  name: demo
  dir: runs
model:
  path: model
  task: causal-lm
  dtype: bfloat16
method:
  type: lora
  rank: 8
data:
  train: [{path: train.jsonl}]
  validation_fraction: 0.1
  max_seq_len: 128
train:
  num_epochs: 2
  global_batch_size: 24
  micro_batch_size: 4
  learning_rate: 1e-5
deepspeed: ds.json
cluster:
  cpu_ranks: 2
"""
DEEPSPEED = """\
{
  "bf16": {"enabled": "auto"},
  "gradient_clipping": "auto",
  "zero_optimization": {
    "stage": 2
  }
}
"""
HF_TOKEN = "hf_" + "Qa7" * 11
WANDB_KEY = "0123456789abcdef" * 2 + "01234567"


@dataclass(frozen=True)
class Case:
    """One mistake: what is changed, and what the message has to contain."""

    name: str
    parts: tuple[str, ...]
    recipe: str = RECIPE
    deepspeed: str = DEEPSPEED
    overrides: tuple[str, ...] = ()
    processes: int | None = None
    options: tuple[str, ...] = ()
    """Options of the command beside `--set`."""
    absent: tuple[str, ...] = ()
    """What the message must not contain."""


def edited(old: str, new: str, text: str = RECIPE) -> str:
    """Return the recipe with one line or word changed; the change has to take."""
    assert text.count(old) == 1, (old, text.count(old))
    return text.replace(old, new)


def zero(entries: str) -> str:
    """Return a DeepSpeed config whose line 5 has these entries of `zero_optimization`."""
    return edited('"stage": 2', entries, DEEPSPEED)


def top(entries: str) -> str:
    """Return a DeepSpeed config whose line 3 has these top-level entries."""
    return edited('"gradient_clipping": "auto",', entries, DEEPSPEED)
