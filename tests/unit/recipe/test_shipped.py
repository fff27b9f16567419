"""Shipped recipes and configs are found by name from anywhere, and are right."""

from __future__ import annotations

from pathlib import Path

import pytest

import launcher.shipped
from launcher.recipe.resolve import resolve
from launcher.shipped import find_file, shipped_folder, shipped_names

RECIPES = shipped_names("recipes", ".yaml")


def test_the_recipes_for_large_models_ship() -> None:
    assert {"llama-8b-lora", "llama-8b-full", "llama-70b-qlora", "quickstart"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_opens_with_its_command_and_its_hardware(name: str) -> None:
    first, second, third = (shipped_folder("recipes") / f"{name}.yaml").read_text().split("\n")[:3]
    assert first.startswith(("# launcher run ", "# launcher submit "))
    assert f"recipes/{name}.yaml" in first
    assert second.startswith("# ")
    assert any(unit in second for unit in ("minute", "hour"))
    assert third == ""


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("form", ["{}", "{}.yaml", "recipes/{}.yaml"])
def test_a_recipe_resolves_by_name_from_anywhere(
    name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = resolve(form.format(name))
    assert run.recipe.run.name == name
    assert run.warnings == ()


@pytest.mark.parametrize(
    ("name", "world_size", "method", "stage"),
    [("llama-8b-lora", 8, "lora", 2), ("llama-8b-full", 8, "full", 3),
     ("llama-70b-qlora", 16, "qlora", 2)],
)  # fmt: skip
def test_large_recipes_say_what_their_names_say(
    name: str, world_size: int, method: str, stage: int
) -> None:
    run = resolve(name)
    assert (run.world_size, run.recipe.method.type, run.zero_stage) == (world_size, method, stage)
    assert run.recipe.cluster.num_nodes == world_size // 8
    assert run.recipe.model.gradient_checkpointing


def test_a_file_of_the_same_name_here_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_file("zero2", "ds_configs", ".json") == shipped_folder("ds_configs") / "zero2.json"
    (tmp_path / "ds_configs").mkdir()
    (tmp_path / "ds_configs" / "zero2.json").write_text("{}")
    assert find_file("ds_configs/zero2.json", "ds_configs", ".json") == Path(
        "ds_configs/zero2.json"
    )
    (tmp_path / "zero3").mkdir()
    assert find_file("zero3", "ds_configs", ".json") == shipped_folder("ds_configs") / "zero3.json"
    assert find_file("other/zero2.json", "ds_configs", ".json") is None
    assert find_file("../zero2", "ds_configs", ".json") is None


def test_an_installed_package_brings_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher.shipped, "PACKAGE", tmp_path / "launcher")
    assert shipped_folder("recipes") == tmp_path / "recipes"
    (tmp_path / "launcher" / "_shipped" / "recipes").mkdir(parents=True)
    assert shipped_folder("recipes") == tmp_path / "launcher" / "_shipped" / "recipes"
