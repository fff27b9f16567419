"""Saves on all ranks, behind training: the copy while they wait, the disk while they train on.

The protocol. Every rank copies its fragments; a thread of each then writes them into the new
folder, flushes them, and last writes a small record of what it wrote. Rank 0's thread waits for the
records of all and writes the manifest under a temporary name and renames it, which is the moment
the checkpoint exists. From then on nothing but retention removes it: links and pruning come after,
and what goes wrong there is a warning. A kill at any point leaves either the old checkpoints or the
old and the new. At each step boundary the ranks agree on whether all are done or one has failed, so
none of them ever waits for a rank that has given up.
"""

from __future__ import annotations

import functools
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from launcher.checkpoint import store
from launcher.checkpoint.fragments import Fragment, write_fragments
from launcher.checkpoint.manifest import (
    PROBE,
    Manifest,
    rank_file,
    rank_record,
    read_manifest,
    write_manifest,
)
from launcher.checkpoint.tensor_file import Entry, write_tensors
from launcher.errors import TrainingError
from launcher.files.read import read_json
from launcher.files.write import FileRecord, flush, write_json
from launcher.run_dir import MANIFEST
from launcher.train import engine_state
from launcher.train.agree import (
    all_agree,
    decided_by_main,
    first_trouble,
    maximum_over_ranks,
    sum_over_ranks,
)
from launcher.train.probe import probe
from launcher.train.progress import Progress
from launcher.train.session import Session
from launcher.train.snapshot import Snapshot
from launcher.train.timings import Timings

POLL_SECONDS = 0.02
GIVEN_UP = "given up"
DONE, WRITING, FAILED = 0.0, 1.0, 2.0
"""What a rank says of its save at a boundary; the largest over all ranks decides."""


class GivenUp(Exception):
    """Ends a writing thread after another rank failed."""


@dataclass
class Write:
    """One save on its way to the disk."""

    folder: Path
    fragments: list[Fragment]
    probe: dict[str, Tensor]
    progress: dict[str, Any]
    is_best: bool
    stall_seconds: float
    started: float
    thread: threading.Thread | None = None
    trouble: str | None = None
    """Why it failed on this rank."""
    warnings: list[str] = field(default_factory=list)
    """What went wrong beside it: the checkpoint is none the worse."""
    given_up: threading.Event = field(default_factory=threading.Event)

    @property
    def step(self) -> int:
        """The optimizer step that is saved."""
        return int(self.progress["step"])

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation so far."""
        return cast("int | None", self.progress["stop"]["best_step"])

    @property
    def state(self) -> float:
        """DONE, WRITING or FAILED, on this rank."""
        if self.trouble is not None:
            return FAILED
        return WRITING if self.thread is not None and self.thread.is_alive() else DONE


class Saver:
    """The saves of one rank; every method that talks to other ranks says so."""

    def __init__(self, session: Session, committed_step: int, timings: Timings) -> None:
        self.committed_step = committed_step
        """The newest step of this run that has a checkpoint."""
        self._session = session
        self._timings = timings
        self._snapshot = Snapshot()
        self._write: Write | None = None
        self._all_bytes: float | None = None
        self._known = {committed_step}
        """Steps whose checkpoints this launch has written or verified."""
        self._warned: set[str] = set()
        self._run_folder = session.run_dir.root.stat()
        self._behind = None if session.recipe.checkpoint.asynchronous else False
        """Whether saves are written behind training; None until the first has been looked at."""

    @property
    def state(self) -> float:
        """What this rank says of its save: DONE, also when there is none."""
        return DONE if self._write is None else self._write.state

    def save(self, progress: Progress, *, required: bool = False) -> None:
        """Save the state after the current step. Collective.

        Returns when a copy is made, the disk follows. `required`: returns when it is committed.

        Raises:
            TrainingError: it failed, and it is required or `checkpoint.if_save_fails` is `stop`.
        """
        self.finish(required=required)
        self._session.heartbeat.at("save")
        if progress.step == self.committed_step:
            self._commit_again(progress)
        else:
            self._start(progress, required=required)
        if required or not self._behind:
            self.finish(required=required)  # not behind: the live tensors are being written

    def finish(self, *, required: bool = False) -> None:
        """Wait until the save under way, if any, is committed or has failed. Collective."""
        while self._write is not None:
            (state,) = maximum_over_ranks([self.state], self._session.device)
            self.settle(state, required=required)
            if self._write is not None:
                time.sleep(POLL_SECONDS)

    def settle(self, state: float, *, required: bool = False) -> None:
        """Act on what the ranks agreed about the save under way. Collective if it failed."""
        write = self._write
        if write is None or state == WRITING:
            return
        self._write = None
        if state == FAILED and not self._is_committed(write):
            self._abandon(write, required=required)
            return
        self.committed_step = write.step
        self._known.add(write.step)
        seconds, session = time.monotonic() - write.started, self._session
        self._timings.save(seconds)
        self._warn_of_short_grace()
        if session.world.is_main_process:
            what = "a stop before a time limit may come too early or late"
            self._try(write, what, functools.partial(self._timings.write, session.run_dir))
            session.recorder.event(
                "checkpoint",
                step=write.step,
                path=write.folder.name,
                bytes=int(self._all_bytes or 0),
                stall_seconds=write.stall_seconds,
                seconds=seconds,
            )
            for message in write.warnings:
                self._warn_once(message)

    def _is_committed(self, write: Write) -> bool:
        """Tell whether a save that went wrong on some rank exists all the same. Collective.

        Its manifest comes after the files of all ranks: what fails later takes nothing back.
        """
        session = self._session
        write.given_up.set()
        if write.thread is not None:
            write.thread.join()
        exists = session.world.is_main_process and (write.folder / MANIFEST).exists()
        if not decided_by_main(int(exists), session.device):
            return False
        own = None if write.trouble == GIVEN_UP else write.trouble
        trouble = first_trouble(own, session.device)
        write.warnings.append(f"{write.folder.name} is saved, but a crash may lose it: {trouble}")
        return True

    def _warn_of_short_grace(self) -> None:
        grace, needed = self._session.recipe.run.grace_seconds, self._timings.stop_seconds
        if grace is not None and needed > grace:
            self._warn_once(
                f"a stop takes {needed:.1f} s here (a step and a save), more than"
                f" run.grace_seconds {grace:g}: a kill may come before its checkpoint is committed."
                " The one before is kept; ask the cluster for a longer grace.",
                "grace",
            )

    def _warn_once(self, message: str, kind: str | None = None) -> None:
        """Record a warning; later ones of one kind (absent: of the same words) are left out."""
        if (kind or message) not in self._warned:
            self._warned.add(kind or message)
            self._session.recorder.event("warning", message=message)

    def require(self, progress: Progress) -> None:
        """See to it that the state after the current step is committed. Collective.

        Raises:
            TrainingError: it can't be.
        """
        self.finish()
        if self.committed_step != progress.step:
            self.save(progress, required=True)

    def drain(self, seconds: float) -> None:
        """Let the save under way come to its end without asking other ranks, if it does so soon."""
        if self._write is not None and self._write.thread is not None:
            self._write.thread.join(seconds)

    def _start(self, progress: Progress, *, required: bool) -> None:
        session = self._session
        began = time.monotonic()
        live = list(engine_state.fragments(session.engine))
        own_bytes = sum(fragment.tensor.nbytes for fragment in live)
        if self._all_bytes is None:
            self._all_bytes = float(sum_over_ranks(_scalar(own_bytes), session.device))
        self._require_run_folder(progress.step)
        folder = session.run_dir.checkpoint(progress.step)
        trouble = self._make_room(progress.step) if session.world.is_main_process else None
        trouble = first_trouble(trouble, session.device)
        if trouble is not None:
            self._report_failure(progress.step, trouble, required=required)
            return
        answers = probe(session)
        copying = time.monotonic()
        write = Write(
            folder=folder,
            fragments=self._copy(live, own_bytes),
            probe=answers if session.world.is_main_process else {},
            progress=progress.state_dict(),
            is_best=progress.stop.best_step == progress.step,
            stall_seconds=time.monotonic() - copying,
            started=began,
        )
        manifest = self._manifest(write) if session.world.is_main_process else None
        write.thread = threading.Thread(
            target=self._carry, args=(write, manifest), name="saver", daemon=True
        )
        self._write = write
        write.thread.start()

    def _require_run_folder(self, step: int) -> None:
        """Raise TrainingError on all ranks where the run folder is another, or none. Collective.

        A folder made anew would hold this checkpoint and nothing of what led to it.
        """
        session = self._session
        root = session.run_dir.root
        is_gone = session.world.is_main_process and _is_gone(root, self._run_folder)
        if decided_by_main(int(is_gone), session.device):
            raise TrainingError(
                f"{root}: the run folder is gone: it was removed or moved while step {step} or one"
                " before it was trained. Where it was moved, move it back; the same command then"
                " resumes it."
            )

    def _copy(self, live: list[Fragment], own_bytes: int) -> list[Fragment]:
        """Return what is to be written: a copy, or where no memory is free for it, the live state.

        Collective at the first save, where all ranks decide alike.
        """
        session = self._session
        if self._behind is None:
            ranks_on_node = session.world.world_size // session.world.num_nodes
            fits = self._snapshot.fits(own_bytes, ranks_on_node)
            self._behind = all_agree(fits, session.device)
            if not self._behind:
                session.recorder.event(
                    "warning",
                    message=f"a copy of the state needs {own_bytes / 1e9:.1f} GB on each of"
                    f" {ranks_on_node} ranks of a node, and no memory is free for it: every save"
                    " holds training up until it is written (checkpoint.asynchronous: false).",
                )
        return self._snapshot.take(live) if self._behind else live

    def _make_room(self, step: int) -> str | None:
        """Make the empty folder; return what is in the way of the save."""
        run_dir = self._session.run_dir
        try:
            folder = store.begin(run_dir, step)
            free = shutil.disk_usage(folder).free
        except OSError as error:
            return f"{run_dir.checkpoint(step)}: {error.strerror}"
        if free < (self._all_bytes or 0):
            return f"{folder}: the checkpoint needs {self._all_bytes:.0f} bytes, {free} are free"
        return None

    def _manifest(self, write: Write) -> Manifest:
        """Return the manifest but for its files."""
        session = self._session
        return Manifest(
            step=write.step,
            world_size=session.world.world_size,
            zero_stage=session.resolved.zero_stage,
            recipe_digest=session.resolved.digest,
            optimizer=session.recipe.train.optimizer,
            optimizer_step=engine_state.optimizer_step(session.engine),
            loss_scale=engine_state.loss_scale(session.engine),
            parameters=engine_state.trained_shapes(session.engine),
            inputs=dict(session.prepared.inputs),
            progress=write.progress,
            files={},
        )

    def _carry(self, write: Write, manifest: Manifest | None) -> None:
        """Bring a copied state to the disk: what the thread does."""
        try:
            self._write_files(write)
            if manifest is not None:
                files = self._await_records(write)
                # What led to this state is on the disk before the state is; not in the copy's time,
                # since a flush waits for the whole disk. Records are handed over line by line.
                for records in (self._session.run_dir.metrics, self._session.run_dir.events):
                    what = f"{records.name} was not flushed"
                    self._try(write, what, functools.partial(flush, records))
                write_manifest(write.folder, replace(manifest, files=files))
                self._tidy(write)
        except GivenUp:
            write.trouble = GIVEN_UP
        except Exception as error:  # noqa: BLE001 - a thread's error is the rank's to report
            write.trouble = _describe(error, write.folder)

    def _write_files(self, write: Write) -> None:
        rank = self._session.world.rank
        files = {rank_file(rank): write_fragments(write.folder / rank_file(rank), write.fragments)}
        if write.probe:
            entries = [_entry(name, tensor) for name, tensor in write.probe.items()]
            files[PROBE] = write_tensors(write.folder / PROBE, entries)
        flush(write.folder)
        records = {name: record.__dict__ for name, record in files.items()}
        write_json(write.folder / rank_record(rank), records)

    def _await_records(self, write: Write) -> dict[str, FileRecord]:
        """Wait until every rank has said what it wrote; return the records of all files."""
        files: dict[str, FileRecord] = {}
        for rank in range(self._session.world.world_size):
            path = write.folder / rank_record(rank)
            while not path.exists():
                if write.given_up.wait(POLL_SECONDS):
                    raise GivenUp
            for name, record in read_json(path).items():
                files[name] = FileRecord(**record)
        return files

    def _tidy(self, write: Write) -> None:
        """After the commit: let the links follow, and remove what is no longer kept."""
        run_dir, checkpoint = self._session.run_dir, self._session.recipe.checkpoint
        is_best = write.is_best and checkpoint.keep_best
        for name in (run_dir.latest, run_dir.best) if is_best else (run_dir.latest,):
            what = f"{name.name} does not point to {write.folder.name}"
            self._try(write, what, functools.partial(store.point, name, write.folder))
        best_step = write.best_step if checkpoint.keep_best else None

        def prune() -> None:
            known = {*self._known, write.step}
            for error in store.prune(run_dir, checkpoint.keep_last, known, best_step):
                write.warnings.append(f"an old checkpoint was not removed: {_reason(error)}")

        self._try(write, "old checkpoints were not removed", prune)

    def _try(self, write: Write, consequence: str, action: Callable[[], None]) -> None:
        """Do what no checkpoint depends on; if it fails, that is a warning."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever it is, the checkpoint stays
            write.warnings.append(f"{consequence}: {_reason(error)}")

    def _commit_again(self, progress: Progress) -> None:
        """Let the checkpoint of this very step say more: the weights are the same, the best isn't.

        A run that stopped between a step and its evaluation comes here when it is resumed.
        """
        session = self._session

        def commit() -> None:
            session.recorder.sync()
            write_manifest(folder, replace(read_manifest(folder), progress=progress.state_dict()))

        if not session.world.is_main_process:
            return
        folder = session.run_dir.checkpoint(progress.step)
        trouble = _trouble_of(commit, folder)
        if trouble is not None:
            self._warn_once(
                f"{folder.name} does not say how it was evaluated: {trouble}. After a restart it is"
                " evaluated again."
            )
        elif progress.stop.best_step == progress.step and session.recipe.checkpoint.keep_best:
            trouble = _trouble_of(lambda: store.point(session.run_dir.best, folder), folder)
            if trouble is not None:
                self._warn_once(f"best does not point to {folder.name}: {trouble}")

    def _abandon(self, write: Write, *, required: bool) -> None:
        """Take back a save that failed on some rank: nothing of it is left. Collective.

        There is no manifest, and no thread that could write one.
        """
        session = self._session
        own = None if write.trouble == GIVEN_UP else write.trouble
        trouble = first_trouble(own, session.device) or "unknown"
        if session.world.is_main_process:
            left = _trouble_of(lambda: store.discard(session.run_dir, write.folder), write.folder)
            trouble += f"; what was written could not be removed ({left})" if left else ""
        all_agree(True, session.device)  # nobody goes on while the folder is being removed
        self._report_failure(write.step, trouble, required=required)

    def _report_failure(self, step: int, trouble: str, *, required: bool) -> None:
        session = self._session
        message = (
            f"the checkpoint of step {step} was not saved: {trouble}. The last one is that of step"
            f" {self.committed_step}."
        )
        if required or session.recipe.checkpoint.if_save_fails == "stop":
            raise TrainingError(message)
        session.recorder.event("save_failed", step=step, message=message)


def _is_gone(folder: Path, before: os.stat_result) -> bool:
    try:
        return not os.path.samestat(folder.stat(), before)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # the disk fails, which the save says
        return False


def _describe(error: Exception, folder: Path) -> str:
    if isinstance(error, OSError):
        free = shutil.disk_usage(folder.parent).free if folder.parent.exists() else 0
        return f"{error.filename or folder}: {error.strerror or error} ({free} bytes are free)"
    return f"{type(error).__name__}: {error}"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror or error}"
    return f"{type(error).__name__}: {error}"


def _trouble_of(action: Callable[[], None], folder: Path) -> str | None:
    try:
        action()
    except OSError as error:
        return _describe(error, folder)
    return None


def _entry(name: str, tensor: Tensor) -> Entry:
    return Entry(name, tensor.dtype, tuple(tensor.shape), lambda: tensor)


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
