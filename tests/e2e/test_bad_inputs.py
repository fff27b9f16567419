"""Every way a recipe or a DeepSpeed config can be wrong, and what the user is told.

The cases run through the command in this process, which is fast; the last tests run the real one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launcher.cli import app
from launcher.errors import EXIT_BAD_INPUT, InputError
from launcher.recipe.resolve import resolve
from tests.support.bad_deepspeed import DEEPSPEED_CASES
from tests.support.bad_input import DEEPSPEED, RECIPE, Case, edited, top
from tests.support.bad_recipes import RECIPE_CASES

CASES = RECIPE_CASES + DEEPSPEED_CASES


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model's config and weights' header, training rows, and used run folders."""
    (tmp_path / "model").mkdir()
    config = {"hidden_size": 64, "max_position_embeddings": 256}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    header = {"layers.0.q_proj.weight": {"dtype": "F32", "shape": [8, 8], "data_offsets": [0, 256]}}
    encoded = json.dumps(header).encode()
    weights = len(encoded).to_bytes(8, "little") + encoded + bytes(256)
    (tmp_path / "model" / "model.safetensors").write_bytes(weights)
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n' * 24)
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    (tmp_path / "runs" / "taken" / "thesis.tex").touch()
    (tmp_path / "runs" / "before").mkdir()
    for name, mode in (("locked", 0o555), ("open", 0o777)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    monkeypatch.chdir(tmp_path)
    write(tmp_path, edited("1e-5", "2e-5", edited("demo", "before")), DEEPSPEED)
    (tmp_path / "runs/before/resolved.yaml").write_text(resolve("recipe.yaml").to_yaml())
    return tmp_path


def write(folder: Path, recipe: str, deepspeed: str) -> None:
    """Write both files; text outside UTF-8 is written as the byte it stands for."""
    (folder / "recipe.yaml").write_text(recipe)
    (folder / "ds.json").write_text(deepspeed, errors="surrogateescape")


def check(case: Case) -> str:
    """Run `launcher check` in this process and return what the user reads."""
    arguments = ["check", "recipe.yaml"]
    for override in case.overrides:
        arguments += ["--set", override]
    arguments += case.options
    if case.processes:
        arguments += ["--processes", str(case.processes)]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, InputError), (result.output, result.exception)
    assert result.exception.exit_code == EXIT_BAD_INPUT
    return str(result.exception)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_message_names_place_value_rule_and_cure(case: Case, project: Path) -> None:
    write(project, case.recipe, case.deepspeed)
    message = check(case)
    for part in case.parts:
        assert part in message
    for part in (*case.absent, "Traceback"):
        assert part not in message
    assert not (project / "pwned").exists()


def test_the_recipe_that_all_cases_start_from_is_right(project: Path) -> None:
    write(project, RECIPE, DEEPSPEED)
    result = CliRunner().invoke(app, ["check", "recipe.yaml"])
    assert result.exit_code == 0, result.output
    assert "4 micro x 3 accumulation x 2 ranks = 24" in result.output


def test_one_mistake_gives_one_line(project: Path) -> None:
    """Rules that follow from a broken value stay silent: no cascade of errors."""
    for case in CASES:
        write(project, case.recipe, case.deepspeed)
        assert len(check(case).splitlines()) == 1, case.name


def test_all_problems_are_reported_at_once(project: Path) -> None:
    recipe = RECIPE
    for old, new in (
        ("dtype: bfloat16", "dtype: bfloat61"),
        ("rank: 8", "rank: 0"),
        ("max_seq_len: 128", "max_seq_len: 1024"),
        ("num_epochs: 2", "num_epochs: 2\n  max_steps: 5"),
        ("global_batch_size: 24", "global_batch_size: 25"),
        ("learning_rate: 1e-5", "learing_rate: 1e-5"),
    ):
        recipe = edited(old, new, recipe)
    config = edited('"stage": 2', '"stage": 7', top('"gradient_clipping": 3, "tpyo": 1,'))
    write(project, recipe, config)
    message = check(Case("all", (), overrides=("run.seed=-1",)))
    keys = [
        "model.dtype", "method.rank", "data.max_seq_len", "train.max_steps",
        "train.global_batch_size", "train.learing_rate", "run.seed", "zero_optimization.stage",
        "gradient_clipping", "tpyo",
    ]  # fmt: skip
    assert sorted(line.split(": ")[1] for line in message.splitlines()) == sorted(keys)


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    command = [sys.executable, "-m", "launcher.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_real_process_ends_with_2_and_one_line_without_traceback(project: Path) -> None:
    write(project, edited("rank: 8", "rank: 0"), DEEPSPEED)
    done = launch("check", "recipe.yaml")
    assert done.returncode == EXIT_BAD_INPUT
    assert done.stderr == "recipe.yaml:10: method.rank: got 0, need an integer >= 1.\n"
    assert done.stdout == ""


def test_a_recipe_that_does_not_exist(project: Path) -> None:
    done = launch("check", "nowhere.yaml")
    assert done.returncode == EXIT_BAD_INPUT
    assert "no such recipe: nowhere.yaml" in done.stderr
    assert "llama-8b-lora" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_check_loads_no_torch(project: Path) -> None:
    write(project, RECIPE, DEEPSPEED)
    code = (
        "import sys; from launcher.cli import app; app(['check', 'recipe.yaml'], "
        "standalone_mode=False); heavy = {'torch', 'transformers', 'deepspeed', 'accelerate', "
        "'datasets', 'peft', 'wandb', 'numpy'} & set(sys.modules); print('heavy:', sorted(heavy))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("heavy: []\n")
