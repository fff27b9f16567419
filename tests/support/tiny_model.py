"""Model folders so small that training, saving and resuming them takes seconds."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch


def write_tiny_bert(source: Path, folder: Path, **config: float) -> Path:
    """Write two random layers of width 32 with the tokenizer and vocabulary of `source`."""
    from transformers import BertConfig, BertModel

    for file in source.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder)
    base = json.loads((source / "config.json").read_text())
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    tiny = BertConfig(**{**base, **sizes, **config})
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(5)
    BertModel(tiny).save_pretrained(folder)
    torch.random.set_rng_state(generator_state)
    return folder


def write_cut(source: Path, folder: Path, *, num_layers: int, vocabulary: int) -> Path:
    """Write the first layers and the first tokens of a real model, weights as they are.

    Of MiniLM and SmolLM2, 2 layers and 4,096 tokens are a fifth of the numbers, most of which are
    embeddings that no row uses: a training takes 2 CPU seconds where the whole takes 8.
    """
    from safetensors.torch import load_file, save_file

    for file in source.iterdir():
        if file.suffix in (".json", ".jinja"):
            shutil.copy(file, folder)
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    _cut_tokens(tokenizer["model"], vocabulary)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((source / "config.json").read_text())
    whole = config["vocab_size"]
    config |= {"num_hidden_layers": num_layers, "vocab_size": vocabulary}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {
        name: tensor[:vocabulary].clone() if tensor.shape[0] == whole else tensor
        for name, tensor in load_file(source / "model.safetensors").items()
        if _layer_of(name) < num_layers
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _cut_tokens(model: dict[str, Any], vocabulary: int) -> None:
    """Keep the tokens with the lowest ids, which are the frequent ones, and their merges."""
    model["vocab"] = {token: i for token, i in model["vocab"].items() if i < vocabulary}
    if "merges" in model:
        kept = model["vocab"]
        model["merges"] = [
            pair for pair in model["merges"] if {*pair, "".join(pair)} <= kept.keys()
        ]


def _layer_of(name: str) -> int:
    """Return the layer that a tensor belongs to; -1 for those of none."""
    found = re.search(r"\.layers?\.(\d+)\.", name)
    return int(found[1]) if found else -1
