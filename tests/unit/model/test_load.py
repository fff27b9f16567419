"""Real weights become the model a recipe asks for: what trains, what is new, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from launcher.errors import InputError
from launcher.model.fresh import kaiming_uniform, normal
from tests.support.models import inputs, load, loss_of, model_recipe

LORA = {"type": "lora", "rank": 4}
QLORA = {"type": "qlora", "rank": 4}
LINEAR_OF_LLAMA = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def _message(path: Path, method: dict[str, Any], **model: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(model_recipe(path, method, **model))
    return str(caught.value)


def test_full_has_the_folders_weights_and_our_head(minilm_dir: Path) -> None:
    loaded = load(model_recipe(minilm_dir, {"type": "full"}))
    state = loaded.model.state_dict()
    for name, tensor in load_file(minilm_dir / "model.safetensors").items():
        if f"bert.{name}" in state:
            assert torch.equal(state[f"bert.{name}"], tensor), name
    assert set(loaded.new_tensors) == {"classifier.weight", "classifier.bias"}
    head = normal(7, "classifier.weight", torch.Size((3, 384)), 0.02)
    assert torch.equal(state["classifier.weight"], head)
    assert loaded.num_trainable == loaded.num_total == sum(t.numel() for t in state.values())
    assert not loaded.model.training
    assert loaded.model.config.id2label == {0: "angry", 1: "calm", 2: "merry"}


def test_freeze_trains_the_head_alone(minilm_dir: Path) -> None:
    loaded = load(model_recipe(minilm_dir, {"type": "freeze"}))
    assert set(loaded.trainable) == {"classifier.weight", "classifier.bias"}
    assert loaded.num_trainable == 3 * 384 + 3


def test_freeze_must_train_what_is_new(minilm_dir: Path) -> None:
    message = _message(minilm_dir, {"type": "freeze", "trainable": ["*.pooler.*"]})
    assert "classifier.bias, classifier.weight would keep initial values" in message


def test_freeze_pattern_that_matches_nothing(minilm_dir: Path) -> None:
    message = _message(minilm_dir, {"type": "freeze", "trainable": ["clasifier.*"]})
    assert 'method.trainable: "clasifier.*" matches no parameter' in message
    assert "classifier." in message.split("Nearest:")[1]


def test_lora_targets_every_linear_layer_but_the_output(smollm2_cut_dir: Path) -> None:
    loaded = load(model_recipe(smollm2_cut_dir, LORA, dtype="bfloat16"))
    config = loaded.model.peft_config["default"]
    assert set(config.target_modules) == LINEAR_OF_LLAMA
    assert len(loaded.trainable) == 4 * len(LINEAR_OF_LLAMA) * 2
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert not loaded.model.training
    parameters = dict(loaded.model.named_parameters())
    for name in loaded.trainable:
        if "lora_B" in name:
            assert not parameters[name].any()
        else:
            expected = kaiming_uniform(7, name, parameters[name].shape)
            assert torch.equal(parameters[name], expected.bfloat16())


def test_untrained_adapter_changes_nothing(smollm2_cut_dir: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(smollm2_cut_dir, dtype=torch.float32)
    adapted = load(model_recipe(smollm2_cut_dir, {**LORA, "dora": True})).model
    batch = inputs(0, 0)
    with torch.no_grad():
        torch.testing.assert_close(adapted(**batch).logits, base(**batch).logits)


def test_classifier_is_saved_with_the_adapter_and_gets_none(minilm_dir: Path) -> None:
    loaded = load(model_recipe(minilm_dir, LORA))
    assert "classifier" in loaded.model.peft_config["default"].modules_to_save
    heads = [name for name in loaded.trainable if "classifier" in name]
    assert {name.rsplit(".", 1)[-1] for name in heads} == {"weight", "bias"}
    assert not any("lora" in name for name in heads)


@pytest.mark.parametrize(
    ("keys", "target", "nearest"),
    [
        ({"target_modules": ["q_prj", "v_proj"]}, "q_prj", "q_proj"),
        ({"modules_to_save": ["embed_token"]}, "embed_token", "embed_tokens"),
    ],
)
def test_module_names_that_match_nothing(
    keys: dict[str, Any], target: str, nearest: str, smollm2_cut_dir: Path
) -> None:
    message = _message(smollm2_cut_dir, {**LORA, **keys})
    assert f'method.{next(iter(keys))}: "{target}" matches no module' in message
    assert nearest in message.split("Nearest:")[1]


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
def test_qlora_quantises_all_but_head_and_output(
    quantization: str, minilm_dir: Path, smollm2_cut_dir: Path
) -> None:
    method = {**QLORA, "quantization": quantization, "modules_to_save": ["down_proj"]}
    model = load(model_recipe(smollm2_cut_dir, method, dtype="bfloat16")).model
    quantized = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit | bitsandbytes.nn.Linear8bitLt)
    ]
    assert len(quantized) == 4 * 6
    assert not any("lm_head" in name or "down_proj" in name for name, _ in quantized)
    stored = torch.int8 if quantization == "int8" else torch.bfloat16
    assert {module.weight.dtype for _, module in quantized} == {stored}
    others = [p for p in model.parameters() if p.dtype != torch.int8]
    assert {p.dtype for p in others} == {torch.bfloat16}, "one dtype, or ZeRO can't flatten"
    for _, module in quantized:
        assert not getattr(module, "support_avx512bf16_for_cpu", False)
    classifier = load(model_recipe(minilm_dir, {**QLORA, "quantization": quantization})).model
    head = classifier.base_model.model.classifier.modules_to_save["default"]
    assert type(head) is torch.nn.Linear


def test_four_bit_weights_survive_evaluation(smollm2_cut_dir: Path) -> None:
    """Some CPUs let bitsandbytes repack them in place at the first pass without gradients."""
    model = load(model_recipe(smollm2_cut_dir, QLORA)).model
    weights = [m.weight for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    # as bytes: packed bits, read as floats, may be NaN, which equals nothing
    before = [weight.data.view(torch.uint8).clone() for weight in weights]
    with torch.no_grad():
        model.eval()(**inputs(0, 0))
    after = [weight.data.view(torch.uint8) for weight in weights]
    assert all(torch.equal(one, other) for one, other in zip(after, before, strict=True))


def test_dora_on_eight_bits_is_refused(smollm2_cut_dir: Path) -> None:
    message = _message(smollm2_cut_dir, {**QLORA, "quantization": "int8", "dora": True})
    assert "method.dora: true does not work with method.quantization int8" in message


@pytest.mark.parametrize("method", [{"type": "full"}, LORA], ids=["full", "lora"])
def test_gradient_checkpointing_gives_the_same_gradients(
    method: dict[str, Any], smollm2_cut_dir: Path
) -> None:
    gradients = []
    for recompute in (False, True):
        recipe = model_recipe(smollm2_cut_dir, method, gradient_checkpointing=recompute)
        model = load(recipe).model.train()
        assert model.is_gradient_checkpointing == recompute
        if method is LORA:  # B = 0 leaves A without any gradient
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "lora_B" in name:
                        parameter.copy_(normal(1, name, parameter.shape, 0.01))
        loss_of(model, inputs(0, 0)).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(gradients[1][name], gradient)


def test_new_rows_are_the_mean_and_stay_tied(smollm2_cut_dir: Path) -> None:
    recipe = model_recipe(smollm2_cut_dir, {"type": "full"}, add_tokens=["<a>", "<b>"])
    loaded = load(recipe)
    old = load_file(smollm2_cut_dir / "model.safetensors")["model.embed_tokens.weight"].float()
    embedding = loaded.model.get_input_embeddings().weight
    assert embedding.shape[0] == len(old) + 2
    assert torch.equal(embedding[: len(old)], old)
    torch.testing.assert_close(embedding[len(old) :], old.mean(dim=0).expand(2, -1))
    assert loaded.model.get_output_embeddings().weight is embedding
    assert loaded.model.config.vocab_size == len(old) + 2
    assert loaded.new_tensors == ("model.embed_tokens.weight",)


def test_adapters_train_the_rows_of_new_tokens(smollm2_cut_dir: Path) -> None:
    loaded = load(model_recipe(smollm2_cut_dir, LORA, add_tokens=["<a>", "<b>"]))
    rows = [name for name in loaded.trainable if "trainable_tokens_delta" in name]
    assert len(rows) == 1
    assert dict(loaded.model.named_parameters())[rows[0]].shape == (2, 576)


def test_tokenizer_that_is_too_large(smollm2_cut_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "smollm2-grown-tokenizer"
    shutil.copytree(smollm2_cut_dir, folder)
    tokenizer = load(model_recipe(folder, {"type": "full"}))
    del tokenizer
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    extra = {**raw["added_tokens"][-1], "id": 49152, "content": "<too-much>"}
    raw["added_tokens"].append(extra)
    path.write_text(json.dumps(raw))
    message = _message(folder, {"type": "full"})
    assert "the tokenizer has 49153 tokens, the model only 49152 embedding rows" in message


def test_other_number_of_labels_than_the_folder(minilm_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "five-labels"
    model = load(model_recipe(minilm_dir, {"type": "full"})).model
    model.classifier = torch.nn.Linear(384, 5)
    model.config.num_labels = 5
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(minilm_dir / name, folder)
    message = _message(folder, {"type": "full"})
    assert "classifier.weight has shape [5, 384]; the model needs [3, 384]" in message


def test_task_that_the_architecture_has_not(minilm_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "code"
    shutil.copytree(minilm_dir, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config |= {"model_type": "home-made", "auto_map": {"AutoConfig": "home_made.Config"}}
    path.write_text(json.dumps(config))
    message = _message_with_tokenizer_of(minilm_dir, folder)
    assert "home_made.Config" in message
    assert "nobody has trusted" in message


def _message_with_tokenizer_of(source: Path, folder: Path) -> str:
    from transformers import AutoTokenizer

    from launcher.model.load import read_config

    with pytest.raises(InputError) as caught:
        read_config(folder, (), AutoTokenizer.from_pretrained(source))
    return str(caught.value)
