"""Whatever lies in a model folder, it makes a model and a tokenizer, or is refused by name."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from launcher.data.tokenizer import load_tokenizer
from launcher.errors import InputError
from launcher.model.load import load_model
from launcher.recipe.load import validate
from launcher.recipe.model_folder import read_model_facts
from launcher.recipe.schema import ModelSection, Recipe
from launcher.tasks.registry import task_for
from tests.support.mutate import ODD_TEXTS
from tests.support.tiny_tokenizers import byte_tokenizer, save_tokenizer

TINY = {
    "vocab_size": 300, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_labels": 2,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tokenizer(tmp_path, byte_tokenizer())  # with a config.json of its own
    BertForSequenceClassification(BertConfig(**TINY)).save_pretrained(tmp_path)
    return tmp_path


def recipe_of(folder: Path) -> Recipe:
    return validate(
        {
            "run": {"name": "x"},
            "model": {"path": str(folder), "task": "sequence-classification"},
            "method": {"type": "full"},
            "data": {"train": [{"path": "x"}]},
            "train": {"num_epochs": 1, "global_batch_size": 1, "micro_batch_size": 1},
            "deepspeed": "zero0",
        }
    )


def load(folder: Path) -> Any:
    task = task_for("sequence-classification")
    return load_model(
        recipe_of(folder),
        auto_class=task.auto_class,
        head_patterns=task.head_patterns,
        labels=("a", "b"),
        tokenizer=byte_tokenizer(),
        zero_stage=0,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "nothing"), ("hidden_dropout_prob", "x"), ("num_attention_heads", []),
        ("num_attention_heads", 0), ("hidden_size", 10**39), ("hidden_size", None),
        ("num_hidden_layers", "x"), ("layer_norm_eps", {}), ("model_type", ["bert"]),
        ("model_type", "nobody-knows"), ("vocab_size", -1), ("pad_token_id", 10**9),
    ],
)  # fmt: skip
def test_odd_configs_are_refused(folder: Path, key: str, value: object) -> None:
    assert load(folder).num_trainable > 0
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(InputError):
        load(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ODD_TEXTS, ids=lambda text: ascii(text[:12]))
def test_odd_tokenizers_are_refused(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with contextlib.suppress(InputError):  # anything else is a traceback
        load_tokenizer(ModelSection(path=str(folder), task="causal-lm"), download=False)


def test_a_tokenizer_without_its_vocabulary_is_refused(minilm_dir: Path, tmp_path: Path) -> None:
    """transformers would make one to which each word is unknown."""
    for path in minilm_dir.iterdir():
        if path.suffix == ".json" and path.name != "tokenizer.json":
            shutil.copy(path, tmp_path)
    with pytest.raises(InputError, match=r"vocabulary file is missing|no usable tokenizer"):
        load_tokenizer(ModelSection(path=str(tmp_path), task="causal-lm"), download=False)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "huge"])
def test_files_that_nobody_should_read_are_named(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "huge":
        path.touch()
        os.truncate(path, 1 << 36)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else name)
    if name == "model.safetensors" and kind == "huge":
        return  # weights may be of any size
    with pytest.raises(InputError, match=name):
        read_model_facts(str(folder), lambda key: f"recipe.yaml:3 {key}")
