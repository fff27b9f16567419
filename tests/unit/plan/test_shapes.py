"""Counts from headers alone are those of transformers and peft on the loaded model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from launcher.errors import InputError
from launcher.model.load import load_model
from launcher.plan.shapes import Trainable, count_trainable, read_shapes
from launcher.recipe.load import validate
from launcher.recipe.schema import Recipe
from launcher.tasks.registry import task_for
from tests.support.tiny_tokenizers import byte_tokenizer

LLAMA: dict[str, Any] = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
BERT: dict[str, Any] = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_labels": 3,
}  # fmt: skip


def recipe_of(folder: Path, task: str, method: dict[str, Any]) -> Recipe:
    return validate(
        {
            "run": {"name": "x"},
            "model": {"path": str(folder), "task": task},
            "method": method,
            "data": {"train": [{"path": "x"}]},
            "train": {"num_epochs": 1, "global_batch_size": 1, "micro_batch_size": 1},
            "deepspeed": "zero0",
        }
    )


def count(folder: Path, task: str, method: dict[str, Any]) -> Trainable:
    recipe = recipe_of(folder, task, method)
    shapes = read_shapes(folder)
    assert shapes is not None
    return count_trainable(recipe, shapes, json.loads((folder / "config.json").read_text()))


def numel(model: torch.nn.Module, *, trained: bool) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)


@pytest.fixture(params=["llama", "llama-tied", "gpt2", "bert"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    builders: dict[str, Callable[[], PreTrainedModel]] = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)),
        "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=True)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4)),
        "bert": lambda: BertForSequenceClassification(BertConfig(**BERT)),
    }
    return builders[request.param]()


def task_of(model: PreTrainedModel) -> str:
    is_bert = isinstance(model, BertForSequenceClassification)
    return "sequence-classification" if is_bert else "causal-lm"


def test_full(model: PreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    counted = count(tmp_path, task_of(model), {"type": "full"})
    assert counted == Trainable(numel(model, trained=False), numel(model, trained=True), False)


@pytest.mark.parametrize("dora", [False, True])
def test_lora_on_all_linear_layers(model: PreTrainedModel, tmp_path: Path, dora: bool) -> None:
    model.save_pretrained(tmp_path)
    task = "SEQ_CLS" if task_of(model) == "sequence-classification" else "CAUSAL_LM"
    config = LoraConfig(r=3, target_modules="all-linear", task_type=task, use_dora=dora)
    adapted = get_peft_model(model, config)
    counted = count(tmp_path, task_of(model), {"type": "lora", "rank": 3, "dora": dora})
    assert counted.num_trainable == numel(adapted, trained=True)


def test_lora_on_named_modules_and_modules_saved_in_full(tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**LLAMA))
    model.save_pretrained(tmp_path)
    names = ["q_proj", "mlp.down_proj", "model.layers.1.self_attn.o_proj"]
    config = LoraConfig(
        r=5, target_modules=names, modules_to_save=["lm_head"], task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model, config)
    method = {"type": "lora", "rank": 5, "target_modules": names, "modules_to_save": ["lm_head"]}
    assert count(tmp_path, "causal-lm", method).num_trainable == numel(adapted, trained=True)


def test_freeze_trains_what_the_patterns_name(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**LLAMA)).save_pretrained(tmp_path)
    head = count(tmp_path, "causal-lm", {"type": "freeze"})
    assert head.num_trainable == 100 * 32
    norms = count(tmp_path, "causal-lm", {"type": "freeze", "trainable": ["*norm.weight"]})
    assert norms.num_trainable == 5 * 32


def test_freeze_of_a_tied_head_trains_the_embedding(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=True)).save_pretrained(tmp_path)
    assert count(tmp_path, "causal-lm", {"type": "freeze"}).num_trainable == 100 * 32


def save_bart(folder: Path) -> None:
    """Its head is called `classification_head`."""
    config = BartConfig(
        vocab_size=300, d_model=32, num_labels=3, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
        decoder_ffn_dim=48,
    )  # fmt: skip
    BartForSequenceClassification(config).save_pretrained(folder)


def save_gemma3(folder: Path) -> None:
    """Its files call the head `language_model.lm_head`, and the model `lm_head`."""
    text = {**LLAMA, "vocab_size": 300, "head_dim": 8, "tie_word_embeddings": False}
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=1, tie_word_embeddings=False
    )
    Gemma3ForConditionalGeneration(config).save_pretrained(folder)


@pytest.mark.parametrize(
    ("save", "task", "head"),
    [
        (save_bart, "sequence-classification", "classification_head.dense.weight"),
        (save_gemma3, "causal-lm", "language_model.lm_head.weight"),
    ],
)
@pytest.mark.parametrize("method", [{"type": "freeze"}, {"type": "lora", "rank": 3}])
def test_heads_of_other_names(
    method: dict[str, Any], save: Callable[[Path], None], task: str, head: str, tmp_path: Path
) -> None:
    """As the run itself loads the model and chooses what it trains."""
    save(tmp_path)
    shapes = read_shapes(tmp_path)
    assert shapes is not None
    assert head in shapes
    recipe = recipe_of(tmp_path, task, method)
    loaded = load_model(
        recipe,
        auto_class=task_for(recipe.model.task).auto_class,
        head_patterns=task_for(recipe.model.task).head_patterns,
        labels=("a", "b", "c") if task == "sequence-classification" else (),
        tokenizer=byte_tokenizer(),
        zero_stage=0,
        device=torch.device("cpu"),
    )
    counted = count(tmp_path, task, method)
    assert counted.num_trainable == loaded.num_trainable > 0
    assert not counted.new_head


def test_an_encoder_gets_a_new_head_for_classification(tmp_path: Path) -> None:
    model = BertModel(BertConfig(**BERT))
    model.save_pretrained(tmp_path)
    counted = count(tmp_path, "sequence-classification", {"type": "freeze"})
    assert counted == Trainable(numel(model, trained=False), 0, True)


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**LLAMA))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    full = {"type": "full"}
    assert count(tmp_path, "causal-lm", full).num_parameters == numel(model, trained=False)
    shards[1].unlink()
    with pytest.raises(InputError, match=f"shard {shards[1].name} is missing"):
        read_shapes(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"\x10", b"\xff" * 20, (8).to_bytes(8, "little") + b"notjson!"]
)
def test_a_file_that_is_not_safetensors_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors: model\.path"):
        read_shapes(tmp_path)


def test_a_folder_without_safetensors_has_no_shapes(tmp_path: Path) -> None:
    assert read_shapes(tmp_path) is None
