"""Weights & Biases without risk: on a thread of its own, and training never waits for it."""

from __future__ import annotations

import contextlib
import importlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from launcher.files.lines import read_lines
from launcher.metrics.record import EvaluationRecord, Event, TrainRecord, number
from launcher.metrics.wandb_files import last_logged_step
from launcher.metrics.wandb_service import end_service
from launcher.recipe.schema import Recipe, WandbSection
from launcher.run_dir import RunDir

QUEUE_SIZE = 1024  # rows; at one a second, a quarter of an hour of a server that doesn't answer
FINISH_SECONDS = 8.0
OFFLINE_FINISH_SECONDS = 30.0  # no server is waited for, only this machine, which may be busy
INIT_SECONDS = 30.0  # for the server to answer at all
OFFLINE_ATTEMPTS = 3

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
FLUSH_SECONDS = 1.0  # what a kill may cost wandb's offline file

Row = dict[str, Any]


class WandbWriter:
    """Hands rows to wandb's thread; full queues and errors lose rows there, never time here.

    One run stays one run: its id is given by the caller and kept over restarts. After a resume at
    `resume_step`, wandb is asked which steps it holds; what it lacks is sent from `metrics.jsonl`,
    and what it has is not sent again. `on_trouble` is called at most once, on the caller's thread.
    """

    def __init__(
        self,
        run_dir: RunDir,
        recipe: Recipe,
        *,
        run_id: str,
        has_key: bool,
        resume_step: int,
        on_trouble: Callable[[str], None],
        queue_size: int = QUEUE_SIZE,
        finish_seconds: float | None = None,
        init_seconds: float = INIT_SECONDS,
    ) -> None:
        assert recipe.logging.wandb is not None
        self._queue: queue.Queue[Row | None] = queue.Queue(queue_size)
        self._on_trouble = on_trouble
        self._run_dir = run_dir
        self._run_id = run_id
        self._resume_step = resume_step
        self._is_auto = recipe.logging.wandb.mode == "auto"
        self._mode = wandb_mode(recipe.logging.wandb, has_key)
        usual = FINISH_SECONDS if self._mode == "online" else OFFLINE_FINISH_SECONDS
        self._finish_seconds = usual if finish_seconds is None else finish_seconds
        self._exit_code = 0
        self._lost_rows = 0
        self._error = ""
        self._is_reported = False
        self._arguments = init_arguments(recipe, run_dir.wandb.parent, run_id)
        self._settings = {
            **PRIVATE_SETTINGS,
            "finish_timeout": self._finish_seconds * 0.75,  # it gives up before we give it up
            "init_timeout": init_seconds,
            "x_transaction_log_flush_interval": FLUSH_SECONDS,
        }
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def train(self, record: TrainRecord) -> None:
        """Queue an optimizer step."""
        self._put(record.to_json())

    def evaluation(self, record: EvaluationRecord) -> None:
        """Queue an evaluation; it joins the row of its step."""
        self._put(record.to_json())

    def event(self, event: Event) -> None:
        """Remember a failure, which marks the wandb run; events themselves stay in the files."""
        if event.kind == "failure":
            self._exit_code = 1

    def sync(self) -> None:
        """Nothing: what wandb holds is a copy."""

    def close(self) -> None:
        """Let wandb finish, for a few seconds at most; what it can't send by then stays behind."""
        deadline = time.monotonic() + self._finish_seconds
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=self._finish_seconds)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._abandon()
        self._report()

    def _abandon(self) -> None:
        """Drop what is queued and end wandb's process, which else would keep ours from ending."""
        self._error = self._error or f"it did not finish within {self._finish_seconds:g} s"
        with contextlib.suppress(queue.Empty):
            while True:
                self._lost_rows += self._queue.get_nowait() is not None
        self._queue.put_nowait(None)
        end_service()
        self._thread.join(1.0)

    def _put(self, values: Row) -> None:
        if self._thread.is_alive():
            try:
                self._queue.put_nowait(values)
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
        # Whatever wandb raises, training goes on; it makes a KeyboardInterrupt of a failed login.
        try:
            wandb = importlib.import_module("wandb")
            try:
                self._record(self._start(wandb))
            except BaseException as error:  # noqa: BLE001
                self._note(error)
            wandb.teardown()  # returns when its process has written all that it will
        except BaseException as error:  # noqa: BLE001
            self._note(error)

    def _start(self, wandb: Any) -> Any:
        """Return a run; `auto` goes offline where the server doesn't answer (a compute node)."""
        try:
            return self._init(wandb)
        except Exception as error:  # its kinds have changed often
            if not (self._is_auto and self._mode == "online"):
                raise
            reason = error
        run = self._restart_offline(wandb)
        # Only now: an error is reported once, as soon as there is one.
        self._error = (
            f"{type(reason).__name__}: {reason} (recording offline: `wandb sync` sends it later)"
        )
        return run

    def _restart_offline(self, wandb: Any) -> Any:
        """Return an offline run of a fresh service; the old one may still be on its way out."""
        self._mode = "offline"
        self._settings["init_timeout"] = INIT_SECONDS  # no server is waited for, only this machine
        for attempt in range(OFFLINE_ATTEMPTS):
            end_service()
            # Of a process that is no more, only to forget it; exits with that process's code.
            with contextlib.suppress(Exception, SystemExit):
                wandb.teardown()
            try:
                return self._init(wandb)
            except Exception:
                if attempt == OFFLINE_ATTEMPTS - 1:
                    raise
                time.sleep(1.0)
        raise AssertionError("unreachable")

    def _init(self, wandb: Any) -> Any:
        known = set(wandb.Settings.model_fields)
        settings = wandb.Settings(
            **{key: value for key, value in self._settings.items() if key in known}
        )
        wandb.setup(settings)
        if self._mode == "online" and not wandb.login(prompt=False, verify=False):
            raise RuntimeError("no API key; set WANDB_API_KEY, or logging.wandb.mode: offline")
        run = wandb.init(**self._arguments, mode=self._mode, settings=settings)
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run

    def _record(self, run: Any) -> None:
        logged_step = self._logged_step(run)
        self._log_history(run, logged_step)
        self._log_new(run, logged_step)
        run.finish(exit_code=self._exit_code)

    def _logged_step(self, run: Any) -> int:
        """Return the last step that wandb holds of this run; -1 for none."""
        if self._mode == "online":
            return int(run.step) - 1  # of a resumed run, the first step the server has no row for
        return last_logged_step(self._run_dir.wandb, self._run_id)

    def _log_history(self, run: Any, logged_step: int) -> None:
        """Send what earlier attempts recorded and wandb lacks: killed unflushed, or unreachable."""
        if self._resume_step == 0:
            return
        for record in read_lines(self._run_dir.metrics).records:
            if logged_step < record.get("step", -1) <= self._resume_step:
                # Strings are numbers that JSON has no word for.
                self._log(run, {key: number(value) for key, value in record.items()})

    def _log_new(self, run: Any, logged_step: int) -> None:
        """Send rows until the end mark; records of one step become one row."""
        while (values := self._queue.get()) is not None:
            if values["step"] > logged_step:
                self._log(run, values)

    def _log(self, run: Any, values: Row) -> None:
        known = {key: value for key, value in values.items() if value is not None}
        try:
            run.log(known, step=int(values["step"]))
        except Exception as error:  # noqa: BLE001 - one bad row must not cost the later
            self._lost_rows += 1
            self._note(error)

    def _note(self, error: BaseException) -> None:
        self._error = self._error or f"{type(error).__name__}: {error}"


def wandb_mode(section: WandbSection, has_key: bool) -> str:
    """Return the mode for `wandb.init`: `auto` is online with a key, else offline."""
    if section.mode == "auto":
        return "online" if has_key else "offline"
    return section.mode


def init_arguments(recipe: Recipe, folder: Path, run_id: str) -> dict[str, Any]:
    """Return what `wandb.init` is called with; the config is the recipe, which holds no secrets."""
    section = recipe.logging.wandb
    assert section is not None
    return {
        "project": section.project,
        "entity": section.entity,
        "name": recipe.run.name,
        "id": run_id,
        "resume": "allow",
        "dir": str(folder),
        "tags": list(section.tags),
        "config": recipe.model_dump(mode="json"),
        "reinit": "create_new",  # whatever wandb run somebody else holds in this process stays his
    }
