"""Data and base model of a run that goes on are those it was begun with; else it is said which."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import save_file

from launcher.errors import InputError
from launcher.model.fingerprint import file_fingerprint, model_fingerprint
from launcher.recipe.schema import ModelSection, Recipe
from launcher.train.inputs import changed_inputs, compare_inputs
from launcher.train.prepare import open_prepared, prepare
from tests.support.tiny_tokenizers import byte_tokenizer, save_tokenizer, write_rows

ROWS = [{"text": f"row {number}"} for number in range(8)]


@pytest.fixture(autouse=True)
def _work_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_tokenizer(Path("model"), byte_tokenizer())
    save_file({"w": np.arange(64, dtype=np.float32)}, "model/model.safetensors")
    write_rows(Path("a.jsonl"), ROWS)
    write_rows(Path("b.jsonl"), ROWS[:3])


def recipe(train: str = "[ab].jsonl", **data: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "run": {"name": "test"},
            "model": {"path": "model", "task": "causal-lm"},
            "method": {"type": "full"},
            "data": {"train": [{"path": train}], **data},
            "train": {"max_steps": 1, "global_batch_size": 1, "micro_batch_size": 1},
            "deepspeed": "zero2",
        }
    )


def refused(saved: dict[str, str], now: dict[str, str], allowed: Sequence[str] = ()) -> list[str]:
    with pytest.raises(InputError) as caught:
        compare_inputs(saved, now, allowed)
    return [str(problem) for problem in caught.value.problems]


def test_every_file_of_rows_and_of_the_model_has_an_entry() -> None:
    inputs = prepare(recipe(validation_fraction=0.2)).inputs
    assert sorted(inputs) == [
        "data/a.jsonl",
        "data/b.jsonl",
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "model/tokenizer_config.json",
        "tokens/train",
        "tokens/validation",
    ]
    assert open_prepared(recipe(validation_fraction=0.2)).inputs == inputs
    compare_inputs(inputs, inputs, ())


def test_a_changed_a_new_and_a_missing_file_are_each_named() -> None:
    saved = prepare(recipe()).inputs
    write_rows(Path("a.jsonl"), [*ROWS, {"text": "one more"}])
    Path("b.jsonl").rename("bb.jsonl")
    now = prepare(recipe("*.jsonl")).inputs
    lines = refused(saved, now)
    assert len(lines) == 3
    assert "data/a.jsonl changed from sha256 " in lines[0]
    assert "data/b.jsonl is gone" in lines[1]
    assert "data/bb.jsonl is new" in lines[2]
    assert all("--allow-change data." in line for line in lines)
    for allowed in (["data"], ["data.train"], ["train", "data.validation"]):
        compare_inputs(saved, now, allowed)
    assert len(refused(saved, now, ["data.max_seq_len", "model"])) == 3


def test_rows_in_another_order_are_other_data() -> None:
    saved = prepare(recipe("a.jsonl")).inputs
    write_rows(Path("a.jsonl"), ROWS[::-1])
    assert "data/a.jsonl changed" in refused(saved, prepare(recipe("a.jsonl")).inputs)[0]


def test_other_tokens_from_the_same_files_are_found() -> None:
    saved = prepare(recipe()).inputs
    now = prepare(recipe(max_seq_len=3)).inputs
    lines = refused(saved, now)
    assert [line.partition(":")[0] for line in lines] == ["the checkpoint"]
    assert "tokens/train changed" in lines[0]
    compare_inputs(saved, now, ["data.max_seq_len"])


def test_a_changed_base_model_is_found_and_allowed_by_its_own_key() -> None:
    saved = prepare(recipe()).inputs
    save_file({"w": np.arange(64, dtype=np.float32) + 1}, "model/model.safetensors")
    now = prepare(recipe()).inputs
    (line,) = refused(saved, now, ["data"])
    assert "model/model.safetensors changed" in line
    assert "--allow-change model.path" in line
    compare_inputs(saved, now, ["model.path"])
    compare_inputs(saved, now, ["model"])


def test_a_checkpoint_without_entries_says_nothing() -> None:
    assert changed_inputs({}, {"data/a": "x"}) == []


def test_a_hub_model_is_its_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commit = ("c0ffee" * 7)[:40]
    repository = tmp_path / "hub" / "models--someone--model"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = ModelSection(path="someone/model", task="causal-lm")
    assert model_fingerprint(model) == {"commit": commit}


def test_a_large_file_is_known_by_its_header_its_size_and_blocks_all_over_it(
    tmp_path: Path,
) -> None:
    file = tmp_path / "large.safetensors"
    save_file({"w": np.zeros(24 << 20, dtype=np.uint8)}, file)
    header_bytes = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    size, known = file.stat().st_size, file_fingerprint(file)
    assert known.startswith(f"{size} bytes, sampled ")
    found = set()
    for offset in (4, header_bytes - 1, header_bytes, size // 3, size // 2, size - 1):
        # wherever it lies, a change as long as two neighbouring samples are apart is seen
        found.add(_fingerprint_with(file, offset, min(size, offset + (size >> 5)) - offset))
    assert known not in found
    assert len(found) == 6
    os.truncate(file, size - 1)
    assert file_fingerprint(file) != known


def _fingerprint_with(file: Path, offset: int, length: int) -> str:
    """Return the fingerprint of a file with some bytes inverted, and restore them."""
    with file.open("r+b") as stream:
        stream.seek(offset)
        before = stream.read(length)
        stream.seek(offset)
        stream.write(bytes(byte ^ 1 for byte in before))
        stream.flush()
        try:
            return file_fingerprint(file)
        finally:
            stream.seek(offset)
            stream.write(before)
