"""What is secret in the environment of a launch stays there: in no file and on no command line."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.launches import launch
from tests.support.training import events, run_folder


def canaries() -> dict[str, str]:
    """Values in the shape of the real ones, so that whatever redacts or validates takes them."""
    unique = secrets.token_hex(20)
    return {
        "WANDB_API_KEY": unique,
        "HF_TOKEN": f"hf_{unique[:34]}",
        "HUGGING_FACE_HUB_TOKEN": f"hf_{unique[::-1][:34]}",
        "AWS_ACCESS_KEY_ID": f"AKIA{unique[:16].upper()}",
        "AWS_SECRET_ACCESS_KEY": f"{secrets.token_urlsafe(30)}",
        "OPENAI_API_KEY": f"sk-{secrets.token_urlsafe(36)}",
        "GITHUB_TOKEN": f"ghp_{secrets.token_hex(18)}",
        "MY_DATABASE_PASSWORD": secrets.token_urlsafe(24),
    }


def found_in_files(folder: Path, values: dict[str, str]) -> list[str]:
    """Return variable and path for each value that stands in a file, or in a name, below."""
    found = []
    for path in folder.rglob("*"):
        content = os.fsencode(path) + (path.read_bytes() if path.is_file() else b"")
        found += [
            f"{name} in {path}" for name, value in values.items() if value.encode() in content
        ]
    return found


@contextmanager
def watched_command_lines(values: dict[str, str]) -> Iterator[set[str]]:
    """Look at every command line of this machine until the end; collect what shows a value."""
    found: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes()
                except OSError:  # it has ended meanwhile
                    continue
                found.update(f"{n} in {line!r}" for n, v in values.items() if v.encode() in line)
            over.wait(0.02)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


@pytest.fixture
def recipe(small_topics: Path, tiny_recipe: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return tiny_recipe(
        data={"validation": [{"path": str(small_topics / "validation.jsonl")}]},
        train={"max_steps": 3},
        checkpoint={"every_steps": 2},
        logging={"wandb": {"project": "canaries", "mode": "offline"}},
    )


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    values = {"HF_TOKEN": "hf_found"}
    (tmp_path / "a" / "hf_found").mkdir(parents=True)
    (tmp_path / "b.bin").write_bytes(b"\0\xff..hf_found..")
    (tmp_path / "c.txt").write_text("hf_other")
    assert len(found_in_files(tmp_path, values)) == 2
    with watched_command_lines(values) as shown:
        subprocess.run(
            [sys.executable, "-c", "import time; time.sleep(0.5)", "hf_found"], check=True
        )
    assert shown


@pytest.mark.parametrize("outcome", ["finished", "failed"])
def test_no_secret_of_the_environment_is_written_or_shown(
    outcome: str, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    """Everything that the launch, wandb or a library writes lands below `tmp_path`."""
    values = canaries()
    if outcome == "failed":  # what only the ranks can see: tracebacks, failure files, their logs
        recipe["method"] = {"type": "lora", "target_modules": ["querry"]}
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    elsewhere = {
        "TMPDIR": str(temporary),
        **{f"WANDB_{kind}_DIR": str(tmp_path / kind) for kind in ("CACHE", "CONFIG", "DATA")},
    }
    with watched_command_lines(values) as shown:
        # As users start it: command lines are real, libraries imported with the secrets at hand.
        done = launch(tmp_path, recipe, forked=False, environment={**elsewhere, **values})
    output = done.stdout + done.stderr
    assert done.returncode == (0 if outcome == "finished" else 2), output
    run_dir = run_folder(recipe)
    assert run_dir.logs(1).rank(1).is_file()
    if outcome == "finished":
        assert list(run_dir.wandb.rglob("*.wandb"))
        assert list(run_dir.checkpoints.glob("step-*/manifest.json"))
        assert events(run_dir, "finish")
    assert not shown
    assert not [name for name, value in values.items() if value in output]
    assert found_in_files(tmp_path, values) == []
