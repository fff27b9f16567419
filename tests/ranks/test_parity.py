"""The same data, weights and hyperparameters through transformers' Trainer give the same losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.support.ranks import run_ranks
from tests.support.training import (
    NO_DROPOUT,
    base_recipe,
    copy_model,
    records,
    run_folder,
    train,
    write_jsonl,
)

NUM_STEPS = 30


@pytest.fixture(scope="module")
def two_topics(topics_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two largest topics; 16 doesn't divide their rows, so the last batch is short."""
    rows = [json.loads(line) for line in (topics_dir / "train.jsonl").read_text().splitlines()]
    labels = sorted({row["label"] for row in rows})
    largest = sorted(labels, key=lambda name: sum(row["label"] == name for row in rows))[-2:]
    kept = [row for row in rows if row["label"] in largest]
    assert len(kept) % 16
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", kept)


def _save_with_head(source: Path, target: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)


def _trainer_losses(model_dir: Path, rows: Path, out: Path) -> list[float]:
    from torch.utils.data import SequentialSampler
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    class InOrder(Trainer):
        def _get_train_sampler(self, train_dataset: object = None) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    examples = [json.loads(line) for line in rows.read_text().splitlines()]
    names = sorted({example["label"] for example in examples})
    dataset = [
        {
            **tokenizer(example["text"], truncation=True, max_length=64),
            "labels": names.index(example["label"]),
        }
        for example in examples
    ]
    arguments = TrainingArguments(
        output_dir=str(out),
        use_cpu=True,
        per_device_train_batch_size=16,
        learning_rate=2e-5,
        weight_decay=0.01,
        lr_scheduler_type="linear",
        max_steps=NUM_STEPS,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = InOrder(
        model=AutoModelForSequenceClassification.from_pretrained(model_dir),
        args=arguments,
        train_dataset=dataset,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture(scope="module")
def model(minilm_cut_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM without dropout and with a head."""
    folder = tmp_path_factory.mktemp("parity")
    plain = copy_model(minilm_cut_dir, folder / "plain", **NO_DROPOUT)
    run_ranks(1, _save_with_head, plain, folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def theirs(model: Path, two_topics: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The Trainer's losses."""
    out = tmp_path_factory.mktemp("out")
    losses: list[float] = run_ranks(1, _trainer_losses, model, two_topics, out)[0]
    return losses


@pytest.mark.parametrize("world_size", [1, 2])
def test_losses_of_thirty_steps(
    world_size: int, tmp_path: Path, model: Path, two_topics: Path, theirs: list[float]
) -> None:
    recipe = base_recipe(
        tmp_path,
        model,
        "sequence-classification",
        two_topics,
        train={
            "max_steps": NUM_STEPS,
            "global_batch_size": 16,
            "micro_batch_size": 8,
            "learning_rate": 2.0e-5,
            "weight_decay": 0.01,
            "warmup_steps": 0,
        },
    )
    recipe["data"] |= {"shuffle": False}
    train(recipe, tmp_path, world_size)
    ours = records(run_folder(recipe), "train/loss")
    assert [ours[step] for step in range(1, NUM_STEPS + 1)] == pytest.approx(theirs, abs=1e-4)
