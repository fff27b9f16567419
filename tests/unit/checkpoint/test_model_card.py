"""The card says what the weights are, in names that mean something on another machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification

from launcher.checkpoint.describe import Description
from launcher.checkpoint.export import main
from launcher.checkpoint.model_card import Card, metrics_at, write_card
from launcher.run_dir import RunDir
from tests.support.models import LABELS, model_recipe

METHODS: dict[str, dict[str, Any]] = {
    "full": {"type": "full"},
    "adapter": {"type": "qlora", "rank": 4, "target_modules": ["query", "value"]},
    "merged": {"type": "lora", "rank": 4},
}


def _card(kind: str, minilm_dir: Path, folder: Path, **metrics: float) -> str:
    config = AutoConfig.from_pretrained(minilm_dir)
    config.num_labels = 3
    config.id2label = dict(enumerate(LABELS))
    description = Description(
        model_class=BertForSequenceClassification,
        config=config,
        tokenizer=AutoTokenizer.from_pretrained(minilm_dir),
        adapter=None,
        quantization=None,
        trained=(),
    )
    recipe = model_recipe(minilm_dir.resolve(), METHODS[kind])
    write_card(folder, recipe, description, Card(kind, 120, metrics, "Read back."))
    return (folder / "README.md").read_text()


@pytest.mark.parametrize("kind", list(METHODS))
def test_header_is_yaml_and_code_is_python(kind: str, minilm_dir: Path, tmp_path: Path) -> None:
    text = _card(kind, minilm_dir, tmp_path)
    _, header, body = text.split("---\n", 2)
    fields = YAML(typ="safe").load(header)
    assert fields["base_model"] == "minilm"
    assert fields["library_name"] == ("peft" if kind == "adapter" else "transformers")
    assert METHODS[kind]["type"] in fields["tags"]
    compile(body.split("```python\n")[1].split("```")[0], "card", "exec")


@pytest.mark.parametrize("kind", list(METHODS))
def test_no_path_of_this_machine(kind: str, minilm_dir: Path, tmp_path: Path) -> None:
    text = _card(kind, minilm_dir, tmp_path)
    assert str(minilm_dir.resolve().parent) not in text
    assert str(tmp_path) not in text
    assert "some/folder" not in text
    assert "rows.jsonl" in text


def test_metrics_classes_and_settings(minilm_dir: Path, tmp_path: Path) -> None:
    text = _card("adapter", minilm_dir, tmp_path, **{"validation/loss": 0.123456789})
    assert "after step 120" in text
    assert "| validation/loss | 0.123457 |" in text
    assert "0: angry, 1: calm, 2: merry" in text
    assert "| target_modules | query, value |" in text
    assert "needs the base model" in text
    assert "## Results" not in _card("adapter", minilm_dir, tmp_path)


def test_metrics_of_the_exported_step_alone(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    assert metrics_at(run_dir, 3) == {}
    records = [
        {"step": 3, "train/loss": 1.0},
        {"step": 3, "validation/loss": 0.5, "validation/accuracy": 0.75},
        {"step": 4, "validation/loss": 0.4},
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    run_dir.metrics.write_text(lines + '{"step": 3, "valid')
    assert metrics_at(run_dir, 3) == {"validation/loss": 0.5, "validation/accuracy": 0.75}


def test_not_a_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["export", str(tmp_path)])
    assert main() == 2
    assert "this is not a run folder" in capsys.readouterr().err
