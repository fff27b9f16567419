"""Weights & Biases without risk: on a thread of its own, and training never waits for it."""

from __future__ import annotations

import importlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from launcher.metrics.record import EvaluationRecord, Event, TrainRecord
from launcher.recipe.schema import Recipe, WandbSection
from launcher.run_dir import RunDir

QUEUE_SIZE = 1024  # rows; at one a second, a quarter of an hour of a server that doesn't answer
FINISH_SECONDS = 5.0

# What wandb would send beside our records: source code, git state, command line, host, installed
# packages, console output, system metrics. Not all versions know all names.
PRIVATE_SETTINGS: Mapping[str, Any] = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "save_code": False,
    "silent": True,
    "program": "launcher",
    "program_relpath": "launcher",
    "host": "",
    "username": "",
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_disable_stats": True,
    "x_executable": "",
    "x_save_requirements": False,
}

Row = tuple[int, dict[str, Any]]


class WandbWriter:
    """Hands rows to wandb's thread; full queues and errors lose rows there, never time here.

    One run stays one run: its id is given by the caller and kept over restarts, and rows of steps
    up to `logged_step`, which an earlier attempt has sent, are not sent again. (Online, the server
    knows better and is asked.) `on_trouble` is called at most once, on the caller's thread.
    """

    def __init__(
        self,
        run_dir: RunDir,
        recipe: Recipe,
        *,
        run_id: str,
        has_key: bool,
        logged_step: int,
        on_trouble: Callable[[str], None],
        queue_size: int = QUEUE_SIZE,
        finish_seconds: float = FINISH_SECONDS,
    ) -> None:
        assert recipe.logging.wandb is not None
        self._queue: queue.Queue[Row | None] = queue.Queue(queue_size)
        self._finish_seconds = finish_seconds
        self._on_trouble = on_trouble
        self._logged_step = logged_step
        self._mode = wandb_mode(recipe.logging.wandb, has_key)
        self._exit_code = 0
        self._lost_rows = 0
        self._error = ""
        self._is_reported = False
        self._arguments = init_arguments(recipe, run_dir.wandb.parent, run_id, self._mode)
        self._settings = {**PRIVATE_SETTINGS, "finish_timeout": finish_seconds}
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def train(self, record: TrainRecord) -> None:
        """Queue an optimizer step."""
        self._put(record.step, record.to_json())

    def evaluation(self, record: EvaluationRecord) -> None:
        """Queue an evaluation; it joins the row of its step."""
        self._put(record.step, record.to_json())

    def event(self, event: Event) -> None:
        """Remember a failure, which marks the wandb run; events themselves stay in the files."""
        if event.kind == "failure":
            self._exit_code = 1

    def sync(self) -> None:
        """Nothing: what wandb holds is a copy."""

    def close(self) -> None:
        """Let wandb finish, for a few seconds at most; what it can't send by then stays behind."""
        deadline = time.monotonic() + self._finish_seconds
        while self._thread.is_alive() and (left := deadline - time.monotonic()) > 0:
            try:
                self._queue.put(None, timeout=min(left, 0.1))
                break
            except queue.Full:
                continue
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._lost_rows += self._queue.qsize()
            self._error = self._error or f"it did not finish within {self._finish_seconds:g} s"
        self._report()

    def _put(self, step: int, values: dict[str, Any]) -> None:
        if self._thread.is_alive():
            try:
                self._queue.put_nowait((step, values))
            except queue.Full:
                self._lost_rows += 1
                self._error = self._error or "it is too slow or blocked"
        else:
            self._lost_rows += 1
        if self._error:
            self._report()

    def _report(self) -> None:
        if self._is_reported or not (self._error or self._lost_rows):
            return
        self._is_reported = True
        lost = f"; {self._lost_rows} rows lost so far" if self._lost_rows else ""
        self._on_trouble(
            f"wandb: {self._error}{lost}. Training goes on; metrics.jsonl has every record."
        )

    # ---- everything below runs on the thread

    def _work(self) -> None:
        try:
            run = self._start()
            self._log_all(run)
            run.finish(exit_code=self._exit_code)
        except Exception as error:  # noqa: BLE001 - whatever it is, training goes on
            self._note(error)

    def _start(self) -> Any:
        wandb = importlib.import_module("wandb")
        known = set(wandb.Settings.model_fields)
        settings = {key: value for key, value in self._settings.items() if key in known}
        run = wandb.init(**self._arguments, settings=wandb.Settings(**settings))
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        if self._mode == "online":
            self._logged_step = run.step - 1  # of a resumed run, the first step it has no row for
        return run

    def _log_all(self, run: Any) -> None:
        """Send rows until the end mark; records of one step become one row."""
        while (item := self._queue.get()) is not None:
            step, values = item
            if step <= self._logged_step:
                continue
            try:
                run.log(values, step=step)
            except Exception as error:  # noqa: BLE001 - one bad row must not cost the later
                self._lost_rows += 1
                self._note(error)

    def _note(self, error: Exception) -> None:
        self._error = self._error or f"{type(error).__name__}: {error}"


def wandb_mode(section: WandbSection, has_key: bool) -> str:
    """Return the mode for `wandb.init`: `auto` is online with a key, else offline."""
    if section.mode == "auto":
        return "online" if has_key else "offline"
    return section.mode


def init_arguments(recipe: Recipe, folder: Path, run_id: str, mode: str) -> dict[str, Any]:
    """Return what `wandb.init` is called with; the config is the recipe, which holds no secrets."""
    section = recipe.logging.wandb
    assert section is not None
    return {
        "project": section.project,
        "entity": section.entity,
        "name": recipe.run.name,
        "id": run_id,
        "resume": "allow",
        "mode": mode,
        "dir": str(folder),
        "tags": list(section.tags),
        "config": recipe.model_dump(mode="json"),
        "reinit": "create_new",  # whatever wandb run somebody else holds in this process stays his
    }
