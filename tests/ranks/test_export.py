"""Exports of real checkpoints, read with nothing but transformers and peft."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from launcher.checkpoint import store
from launcher.checkpoint.describe import save_description
from launcher.checkpoint.export import export
from launcher.checkpoint.fragments import write_fragments
from launcher.checkpoint.manifest import PROBE, rank_file, read_manifest
from launcher.errors import InputError, TrainingError
from launcher.recipe.schema import Recipe
from launcher.run_dir import RunDir
from launcher.train import engine_state
from tests.support.checkpoints import commit
from tests.support.models import (
    accelerator_for,
    engine_for,
    inputs,
    load,
    model_recipe,
    tokenizer_of,
    train_and_evaluate,
)
from tests.support.ranks import run_ranks

LORA = {"type": "lora", "rank": 4}
QLORA = {"type": "qlora", "rank": 4}
NEW_TOKENS = ("<tool>", "</tool>")
STEP = 2


def _train(recipe: Recipe, zero_stage: int, world_size: int, root: Path) -> None:
    """Train two steps and commit a checkpoint as a run does."""
    rank, run_dir = int(os.environ["RANK"]), RunDir(root)
    accelerator = accelerator_for(recipe, zero_stage, world_size)
    loaded = load(recipe, zero_stage)
    engine = engine_for(accelerator, loaded, zero_stage)
    train_and_evaluate(engine, rank, num_rounds=1)
    if rank == 0:
        store.begin(run_dir, STEP)
        save_description(run_dir, recipe, loaded.model, tokenizer_of(recipe))
    accelerator.wait_for_everyone()
    folder = run_dir.checkpoint(STEP)
    write_fragments(folder / rank_file(rank), list(engine_state.fragments(engine)))
    probe = inputs(0, 50)
    if recipe.model.add_tokens:
        ids = tokenizer_of(recipe).convert_tokens_to_ids(list(recipe.model.add_tokens))
        probe["input_ids"][:, 2:4] = torch.tensor(ids)
    engine.eval()
    with torch.no_grad():
        logits = engine(**probe).logits.float().contiguous()
    if rank == 0:
        save_file({**probe, "logits": logits}, folder / PROBE)
    accelerator.wait_for_everyone()
    if rank == 0:
        shapes = engine_state.trained_shapes(engine)
        commit(folder, step=STEP, world_size=world_size, zero_stage=zero_stage, parameters=shapes)
    accelerator.wait_for_everyone()


def _export(recipe: Recipe, root: Path, merge: bool, out: Path) -> dict[str, Any]:
    run_dir = RunDir(root)
    return export(run_dir, recipe, run_dir.checkpoint(STEP), merge=merge, out=out).to_json()


def _relative_difference(model: Any, probe_file: Path) -> float:
    probe = load_file(probe_file)
    real = probe["attention_mask"].bool()
    with torch.no_grad():
        logits = model.eval()(
            input_ids=probe["input_ids"], attention_mask=probe["attention_mask"]
        ).logits.float()
    live = probe["logits"]
    if live.ndim == 3:
        logits, live = logits[real], live[real]
    return float((logits - live).abs().max() / live.abs().max())


@pytest.mark.parametrize("zero_stage", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_full_model_with_new_tokens(
    zero_stage: int, dtype: str, smollm2_small_dir: Path, tmp_path: Path
) -> None:
    """Tied embeddings that grew; the files hold them once, in the dtype of the recipe."""
    recipe = model_recipe(smollm2_small_dir, {"type": "full"}, dtype=dtype, add_tokens=NEW_TOKENS)
    run_ranks(2, _train, recipe, zero_stage, 2, tmp_path / "run")
    out = tmp_path / "run" / "export"
    report = _export(recipe, tmp_path / "run", False, out)
    assert report["max_logit_difference"] <= report["tolerance"]

    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert str(model.dtype) == f"torch.{dtype}"
    probe = RunDir(tmp_path / "run").checkpoint(STEP) / PROBE
    assert _relative_difference(model, probe) <= report["tolerance"]
    with safe_open(out / "model.safetensors", framework="pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118 - not a dict
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == 4098
    assert model.config.use_cache is True


@pytest.mark.parametrize(
    ("zero_stage", "method", "model"),
    [
        (0, LORA, {}),
        (2, {**LORA, "modules_to_save": ["norm"]}, {"add_tokens": NEW_TOKENS}),
        (3, {**LORA, "modules_to_save": ["norm"]}, {"add_tokens": NEW_TOKENS}),
        (3, {**LORA, "dora": True, "rslora": True}, {}),
    ],
    ids=["zero0", "tokens-zero2", "tokens-zero3", "dora-zero3"],
)
def test_adapter_loads_with_plain_peft(
    zero_stage: int,
    method: dict[str, Any],
    model: dict[str, Any],
    smollm2_small_dir: Path,
    tmp_path: Path,
) -> None:
    recipe = model_recipe(smollm2_small_dir, method, **model)
    root = tmp_path / "run"
    run_ranks(2, _train, recipe, zero_stage, 2, root)
    report = _export(recipe, root, False, root / "export")
    config = json.loads((root / "export" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(smollm2_small_dir)
    probe = RunDir(root).checkpoint(STEP) / PROBE
    plain = AutoPeftModelForCausalLM.from_pretrained(root / "export", dtype=torch.float32)
    assert _relative_difference(plain, probe) <= 1e-5
    assert report["kind"] == "adapter"

    merged = _export(recipe, root, True, tmp_path / "merged")
    assert merged["reference"] == "live model"
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert _relative_difference(plain, probe) <= 1e-5


def test_classifier_adapter_brings_its_head(minilm_cut_dir: Path, tmp_path: Path) -> None:
    recipe = model_recipe(minilm_cut_dir, LORA)
    root = tmp_path / "run"
    run_ranks(2, _train, recipe, 3, 2, root)
    _export(recipe, root, False, root / "export")
    probe = RunDir(root).checkpoint(STEP) / PROBE
    adapted = AutoPeftModelForSequenceClassification.from_pretrained(
        root / "export", num_labels=3, dtype=torch.float32
    )
    assert _relative_difference(adapted, probe) <= 1e-5
    _export(recipe, root, True, tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert _relative_difference(merged, probe) <= 1e-5
    assert merged.config.id2label == {0: "angry", 1: "calm", 2: "merry"}


@pytest.mark.parametrize(
    ("dtype", "quantization"), [("bfloat16", "nf4"), ("float32", "int8")], ids=["nf4", "int8"]
)
def test_merged_qlora_is_the_adapter_on_the_unquantised_base(
    dtype: str, quantization: str, smollm2_small_dir: Path, tmp_path: Path
) -> None:
    recipe = model_recipe(smollm2_small_dir, {**QLORA, "quantization": quantization}, dtype=dtype)
    root = tmp_path / "run"
    run_ranks(2, _train, recipe, 3, 2, root)
    adapter = _export(recipe, root, False, root / "export")
    assert adapter["max_logit_difference"] <= adapter["tolerance"]

    merged = _export(recipe, root, True, tmp_path / "merged")
    assert merged["reference"] == "adapter on the unquantised base"
    assert merged["max_logit_difference"] <= merged["tolerance"] < merged["live_difference"]
    plain = AutoPeftModelForCausalLM.from_pretrained(root / "export", dtype=getattr(torch, dtype))
    folded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    batch = inputs(1, 51)
    with torch.no_grad():
        one, other = folded(**batch).logits.float(), plain.eval()(**batch).logits.float()
    assert (one - other).abs().max() <= merged["tolerance"] * other.abs().max()
    assert "quantization_config" not in json.loads((tmp_path / "merged/config.json").read_text())


def test_what_differs_from_the_live_model_is_not_exported(
    minilm_cut_dir: Path, tmp_path: Path
) -> None:
    recipe = model_recipe(minilm_cut_dir, {"type": "freeze"})
    root = tmp_path / "run"
    run_ranks(2, _train, recipe, 2, 2, root)
    checkpoint, out = RunDir(root).checkpoint(STEP), root / "export"
    _export(recipe, root, False, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    _assert_nothing_of_others_is_touched(recipe, root, tmp_path)
    probe = load_file(checkpoint / PROBE)
    save_file({**probe, "logits": probe["logits"] * 1.001}, checkpoint / PROBE)
    with pytest.raises(TrainingError, match="Nothing was exported"):
        _export(recipe, root, False, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == []

    save_file(probe, checkpoint / PROBE)
    _forget(checkpoint, "classifier.weight")
    with pytest.raises(TrainingError, match=r"lacks 1 of 2 trained tensors"):
        _export(recipe, root, False, out)


def _assert_nothing_of_others_is_touched(recipe: Recipe, root: Path, tmp_path: Path) -> None:
    """Links are not followed, folders with other things refused, other files in an export kept."""
    mine, link = tmp_path / "mine", tmp_path / "link"
    mine.mkdir()
    link.symlink_to(mine)
    (root / ".export.unverified").symlink_to(mine)
    (mine / "thesis").write_text("mine")
    for out in (mine, link, mine / "thesis"):
        with pytest.raises(InputError, match=r"not an empty folder|is a link to"):
            _export(recipe, root, False, out)
    (root / "export" / "notes.txt").write_text("mine")
    _export(recipe, root, False, root / "export")
    (kept,) = root.glob("export-replaced-*")
    assert [(path.name, path.read_text()) for path in kept.iterdir()] == [("notes.txt", "mine")]
    assert [path.name for path in mine.iterdir()] == ["thesis"]


def _forget(checkpoint: Path, name: str) -> None:
    """Take a tensor out of a checkpoint, as if the engine had never written it."""
    manifest = read_manifest(checkpoint)
    parameters = {key: shape for key, shape in manifest.parameters.items() if key != name}
    commit(checkpoint, step=STEP, zero_stage=2, parameters=parameters)
