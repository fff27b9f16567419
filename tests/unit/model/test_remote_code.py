"""Code inside a model folder runs where it is trusted, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from launcher.data.tokenizer import load_tokenizer
from launcher.errors import InputError
from launcher.model.remote_code import fetch_code
from launcher.recipe.schema import ModelSection
from tests.support.custom_code import with_code
from tests.support.models import LABELS, model_recipe
from tests.support.models import load as load_trained


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "code-was-run"


@pytest.fixture
def traced(minilm_dir: Path, tmp_path: Path, marker: Path) -> Path:
    return with_code(minilm_dir, tmp_path / "traced", marker, tokenizer=True)


def section(folder: Path, *, trust: bool, **model: object) -> ModelSection:
    return ModelSection.model_validate(
        {"path": str(folder), "task": "sequence-classification", "trust_remote_code": trust} | model
    )


def test_trusted_code_makes_the_model(
    traced: Path, marker: Path, minilm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = model_recipe(traced, {"type": "full"}, trust_remote_code=True)
    tokenizer = load_tokenizer(recipe.model, download=False).tokenizer
    assert type(tokenizer).__name__ == "TracedTokenizer"
    monkeypatch.setattr("tests.support.models.tokenizer_of", lambda _: tokenizer)
    loaded = load_trained(recipe)
    assert type(loaded.model).__name__ == "TracedForSequenceClassification"
    assert loaded.model.config.num_labels == len(LABELS)
    assert set(loaded.new_tensors) == {"classifier.weight", "classifier.bias"}
    assert {"configuration", "modeling", "tokenization"} <= set(marker.read_text().split())
    plain = load_trained(model_recipe(minilm_dir, {"type": "full"}))
    assert isinstance(plain.model, transformers.BertForSequenceClassification)
    assert loaded.num_total == plain.num_total


def test_code_that_is_not_trusted_is_not_run(
    traced: Path, marker: Path, minilm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_tokenizer(section(minilm_dir, trust=False), download=False).tokenizer
    monkeypatch.setattr("tests.support.models.tokenizer_of", lambda _: plain)
    with pytest.raises(InputError, match=r"code shipped in its folder .*--trust-remote-code"):
        load_trained(model_recipe(traced, {"type": "full"}))
    with pytest.raises(InputError, match="no usable tokenizer"):
        load_tokenizer(section(traced, trust=False), download=False)
    fetch_code(section(traced, trust=False))
    assert not marker.exists()


def test_fetching_code_does_not_run_it(traced: Path, marker: Path) -> None:
    fetch_code(section(traced, trust=True))
    assert not marker.exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_another_repository_is_refused(traced: Path, marker: Path, file: str) -> None:
    settings = json.loads((traced / file).read_text())
    settings["auto_map"] = {"AutoModel": ["mallory/model--modeling.Model", None]}
    (traced / file).write_text(json.dumps(settings))
    with pytest.raises(InputError) as caught:
        fetch_code(section(traced, trust=True))
    assert "mallory/model--modeling.Model" in str(caught.value)
    assert str(traced / file) in str(caught.value)
    assert not marker.exists()


def test_a_tokenizer_folder_of_its_own_is_looked_at_too(
    traced: Path, minilm_dir: Path, marker: Path
) -> None:
    settings = json.loads((traced / "tokenizer_config.json").read_text())
    settings["auto_map"] = ["mallory/model--tokenization.Tokenizer", None]
    (traced / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="mallory"):
        fetch_code(section(minilm_dir, trust=True, tokenizer=str(traced)))
    assert not marker.exists()
