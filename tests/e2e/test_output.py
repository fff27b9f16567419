"""Nobody has to read what a launch prints: the run is the same without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.launches import Launch
from tests.support.training import events


def test_a_run_goes_on_when_its_readers_are_gone(
    tmp_path: Path, tiny_recipe: Callable[..., dict[str, Any]]
) -> None:
    """As behind a `tee` that was killed, or `| head -1`."""
    recipe = tiny_recipe(train={"max_steps": 30})
    running = Launch(tmp_path, recipe, forked=False)
    running.wait_for_step(2)
    for pipe in (running.process.stdout, running.process.stderr):
        assert pipe is not None
        pipe.close()
    assert running.process.wait(240) == 0
    assert running.run_dir.summary.exists()
    assert len(running.run_dir.launches) == 1, "no restart was spent"
    (warning,) = (
        event["message"]
        for event in events(running.run_dir, "warning")
        if "no longer shown" in event["message"]
    )
    assert "Broken pipe" in warning
