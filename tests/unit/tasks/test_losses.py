"""Losses and metrics equal those of transformers and scikit-learn; fillers weigh nothing."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from launcher.tasks.interface import Batch, Task
from launcher.tasks.registry import TASKS, task_for

VOCABULARY, CLASSES = 50, 3


@pytest.fixture
def decoder() -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def encoder() -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=CLASSES,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config)


def make_batch(rows: int = 4, length: int = 9, fillers: int = 0) -> Batch:
    dice = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, length + 1, (rows,), generator=dice)
    attention = torch.arange(length)[None] < lengths[:, None]
    row_mask = torch.arange(rows) < rows - fillers
    loss = (torch.rand(rows, length, generator=dice) < 0.6) & attention & row_mask[:, None]
    return {
        "input_ids": torch.randint(0, VOCABULARY, (rows, length), generator=dice),
        "attention_mask": attention.long(),
        "loss_mask": loss,
        "label": torch.randint(0, CLASSES, (rows,), generator=dice),
        "row_mask": row_mask,
    }


def cut(batch: Batch, rows: slice) -> Batch:
    return {name: tensor[rows] for name, tensor in batch.items()}


def test_causal_loss_is_that_of_transformers(decoder: nn.Module) -> None:
    batch = make_batch()
    output = task_for("causal-lm").forward(decoder, batch)
    theirs = decoder(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        labels=batch["input_ids"].masked_fill(~batch["loss_mask"], -100),
    )
    targets = int(batch["loss_mask"][:, 1:].sum())
    assert output.statistics[1] == targets
    torch.testing.assert_close(output.loss_sum / targets, theirs.loss, rtol=1e-6, atol=0)
    assert output.loss_sum.dtype == torch.float32
    assert not output.statistics.requires_grad

    metrics = task_for("causal-lm").summarise(output.statistics)
    assert metrics["loss"] == pytest.approx(theirs.loss.item(), rel=1e-6)
    assert metrics["perplexity"] == pytest.approx(math.exp(theirs.loss.item()), rel=1e-5)
    hits = [
        int(theirs.logits[row, place - 1].argmax()) == int(batch["input_ids"][row, place])
        for row in range(4)
        for place in range(1, 9)
        if batch["loss_mask"][row, place]
    ]
    assert metrics["accuracy"] == pytest.approx(sum(hits) / targets)
    assert metrics["tokens"] == targets == len(hits)


def test_causal_loss_of_a_bfloat16_model_is_taken_in_float32(decoder: nn.Module) -> None:
    decoder = decoder.to(torch.bfloat16)
    batch = make_batch()
    output = task_for("causal-lm").forward(decoder, batch)
    assert output.loss_sum.dtype == torch.float32
    logits = decoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    is_target = batch["loss_mask"][:, 1:]
    by_hand = (
        -logits[:, :-1]
        .float()
        .log_softmax(-1)[is_target]
        .gather(1, batch["input_ids"][:, 1:][is_target][:, None])
    )
    torch.testing.assert_close(output.loss_sum, by_hand.sum(), rtol=1e-6, atol=0)


def test_classification_loss_is_that_of_transformers(encoder: nn.Module) -> None:
    batch = make_batch()
    output = task_for("sequence-classification").forward(encoder, batch)
    theirs = encoder(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["label"]
    )
    torch.testing.assert_close(output.loss_sum / 4, theirs.loss, rtol=1e-6, atol=0)
    assert output.statistics[1] == 4


def models(request: pytest.FixtureRequest, task: Task) -> Any:
    return request.getfixturevalue("decoder" if task.name == "causal-lm" else "encoder")


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_sums_don_t_depend_on_how_rows_are_batched(
    task: Task, request: pytest.FixtureRequest
) -> None:
    model, batch = models(request, task), make_batch(6)
    whole = task.forward(model, batch)
    parts = [task.forward(model, cut(batch, slice(i, i + 2))) for i in range(0, 6, 2)]
    added = sum((part.statistics for part in parts), torch.zeros_like(whole.statistics))
    torch.testing.assert_close(added, whole.statistics, rtol=1e-6, atol=1e-6)
    assert whole.statistics.dtype == torch.float64


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_fillers_change_neither_statistics_nor_gradients(
    task: Task, request: pytest.FixtureRequest
) -> None:
    model, batch = models(request, task), make_batch(4, fillers=2)
    # what stands in a filler's own masks must not matter, only row_mask
    batch["loss_mask"][2:] = True
    batch["label"][2:] = 0
    with_fillers = gradients(task, model, batch)
    without = gradients(task, model, cut(batch, slice(0, 2)))
    torch.testing.assert_close(
        task.forward(model, batch).statistics,
        task.forward(model, cut(batch, slice(0, 2))).statistics,
        rtol=1e-6,
        atol=1e-6,
    )
    for name, gradient in with_fillers.items():
        torch.testing.assert_close(gradient, without[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_a_batch_of_fillers_is_zero_with_a_graph_to_every_parameter(
    task: Task, request: pytest.FixtureRequest
) -> None:
    model, batch = models(request, task), make_batch(2, fillers=2)
    output = task.forward(model, batch)
    assert output.loss_sum.item() == 0.0
    assert output.statistics.eq(0).all()
    found = gradients(task, model, batch)
    assert found.keys() == {name for name, _ in model.named_parameters()}
    assert all(gradient.eq(0).all() for gradient in found.values())


def gradients(task: Task, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    task.forward(model, batch).loss_sum.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("seed", range(8))
def test_classification_metrics_are_those_of_scikit_learn(seed: int) -> None:
    dice = torch.Generator().manual_seed(seed)
    classes, rows = 2 + seed, 2 + seed  # few rows: some classes never occur
    truth = torch.randint(0, classes, (rows,), generator=dice)
    logits = torch.randn(rows, classes, generator=dice)

    class Fixed(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return type("Output", (), {"logits": logits[input_ids[:, 0]]})

    task = task_for("sequence-classification")
    batches = [
        {
            "input_ids": ids[:, None],
            "attention_mask": torch.ones(len(ids), 1),
            "label": truth[ids],
            "row_mask": torch.ones(len(ids), dtype=torch.bool),
        }
        for ids in torch.arange(rows).split(4)
    ]
    total = torch.stack([task.forward(Fixed(), batch).statistics for batch in batches]).sum(0)
    metrics = task.summarise(total)
    predicted = logits.argmax(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert metrics["f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert metrics["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert metrics["tokens"] == rows
    assert metrics["loss"] == pytest.approx(
        nn.functional.cross_entropy(logits, truth).item(), rel=1e-6
    )


def test_nothing_measured_is_no_number() -> None:
    for task, size in ((task_for("causal-lm"), 3), (task_for("sequence-classification"), 11)):
        metrics = task.summarise(torch.zeros(size, dtype=torch.float64))
        assert math.isnan(metrics["loss"])
        assert math.isnan(metrics["accuracy"])
        assert metrics["tokens"] == 0


def test_a_diverged_loss_has_a_perplexity() -> None:
    metrics = task_for("causal-lm").summarise(torch.tensor([1e5, 1.0, 0.0], dtype=torch.float64))
    assert metrics["perplexity"] > 1e300
