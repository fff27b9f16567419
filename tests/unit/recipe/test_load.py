"""Files, what they extend, and overrides become one recipe; every value keeps its origin."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import InputError
from launcher.recipe.load import load_recipe
from launcher.recipe.schema import FullMethod, LoraMethod, QloraMethod

BASE = """\
run: {name: base}
model: {path: org/name, task: causal-lm}
method:
  type: lora
  rank: 4
  dora: true
data:
  train:
    - {path: a.jsonl}
    - {path: b.jsonl}
train:
  num_epochs: 1
  global_batch_size: 8
  micro_batch_size: 1
deepspeed: zero2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "base.yaml").write_text(BASE)
    return tmp_path


def extending(folder: Path, text: str) -> Path:
    path = folder / "sub" / "mine.yaml"
    path.write_text("extends: base.yaml\n" + text)
    return path


def test_extends_is_relative_to_the_file_and_joins_key_by_key(folder: Path) -> None:
    path = extending(folder, "run: {name: mine}\ntrain:\n  micro_batch_size: 2\n")
    loaded = load_recipe(path)
    assert loaded.recipe.run.name == "mine"
    assert loaded.recipe.train.micro_batch_size == 2
    assert loaded.recipe.train.global_batch_size == 8
    assert loaded.place("run.name") == "sub/mine.yaml:2"
    assert loaded.place("train.micro_batch_size") == "sub/mine.yaml:4"
    assert loaded.place("train.global_batch_size") == "sub/base.yaml:13"
    assert loaded.place("train.weight_decay") == "default"


def test_lists_are_replaced_and_null_takes_away(folder: Path) -> None:
    path = extending(folder, "data: {train: [{path: c.jsonl}]}\ntrain: {num_epochs: null}\n")
    loaded = load_recipe(path)
    assert [source.path for source in loaded.recipe.data.train] == ["c.jsonl"]
    assert loaded.recipe.train.num_epochs is None


def test_a_chain_of_three_and_its_loop(folder: Path) -> None:
    extending(folder, "run: {seed: 1}\n")
    top = folder / "top.yaml"
    top.write_text("extends: sub/mine.yaml\nrun: {dir: out}\n")
    run = load_recipe(top).recipe.run
    assert (run.name, run.seed, run.dir) == ("base", 1, "out")
    (folder / "sub" / "base.yaml").write_text("extends: ../top.yaml\n")
    with pytest.raises(InputError, match=r"extends itself: top.yaml -> sub/mine.yaml -> sub/base"):
        load_recipe(top)


def test_a_new_method_keeps_what_it_shares_and_drops_the_rest(folder: Path) -> None:
    qlora = load_recipe(extending(folder, "method: {type: qlora}\n")).recipe.method
    assert isinstance(qlora, QloraMethod)
    assert (qlora.rank, qlora.dora) == (4, True)
    full = load_recipe(extending(folder, "method: {type: full}\n")).recipe.method
    assert full == FullMethod(type="full")
    overridden = load_recipe(folder / "sub/base.yaml", ["method.type=full"]).recipe.method
    assert overridden == FullMethod(type="full")


def test_a_key_beside_a_method_that_lacks_it_is_a_mistake(folder: Path) -> None:
    with pytest.raises(InputError, match=r"mine.yaml:2: method.rank: unknown key rank"):
        load_recipe(extending(folder, "method: {type: full, rank: 8}\n"))


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.learning_rate=1e-5", "train.learning_rate", 1e-5),
        ("run.name=no", "run.name", "no"),
        ("data.train.1.path=c.jsonl", "data.train.1.path", "c.jsonl"),
        ("model.add_tokens=[<a>, <b>]", "model.add_tokens", ("<a>", "<b>")),
        ("logging.wandb.project=p", "logging.wandb.project", "p"),
        ("logging={every_steps: 5}", "logging.every_steps", 5),
        ("train.num_epochs=", "train.num_epochs", None),
        ("run.dir=a=b", "run.dir", "a=b"),
    ],
)
def test_any_key_can_be_overridden(folder: Path, override: str, key: str, value: object) -> None:
    loaded = load_recipe(folder / "sub/base.yaml", ["run.dir=x", override])
    found: object = loaded.recipe
    for part in key.split("."):
        found = found[int(part)] if isinstance(found, tuple) else getattr(found, part)
    assert found == value
    assert loaded.place(key) == f"--set {override}"


def test_the_last_override_wins_and_earlier_places_are_gone(folder: Path) -> None:
    overrides = ["run.seed=1", "run.seed=2"]
    loaded = load_recipe(folder / "sub/base.yaml", overrides)
    assert loaded.recipe.run.seed == 2
    assert loaded.place("run.seed") == "--set run.seed=2"


def test_all_overrides_that_are_wrong_are_named(folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(folder / "sub/base.yaml", ["x", "data.train.7.path=c", "run.seed=a: b: c"])
    assert len(caught.value.problems) == 3


def test_text_is_never_taken_for_a_number(folder: Path) -> None:
    path = extending(folder, 'method: {rank: "8"}\ntrain: {weight_decay: true}\n')
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    keys = {problem.key for problem in caught.value.problems}
    assert keys == {"method.rank", "train.weight_decay"}


def test_a_recipe_in_latin_1_names_its_first_bad_byte(folder: Path) -> None:
    (folder / "latin.yaml").write_bytes("run: {name: café}\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8: byte 16 is 0xe9"):
        load_recipe(folder / "latin.yaml")


def test_defaults_of_the_method_hold(folder: Path) -> None:
    method = load_recipe(folder / "sub/base.yaml").recipe.method
    assert isinstance(method, LoraMethod)
    assert (method.rank, method.alpha, method.target_modules) == (4, 32, "all-linear")


def test_a_folder_is_not_a_recipe(folder: Path) -> None:
    with pytest.raises(InputError, match="sub: is a folder, not a file"):
        load_recipe(folder / "sub")
