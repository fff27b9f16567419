"""One rank of a real run that saves when it is told to: by the launcher, by DCP, or not at all.

    python -m benchmarks.stall.rank ADDRESS RECIPE FOLDER key=value ...

Model, engine, optimizer and data are those of `launcher run`; only the training loop is another.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from benchmarks.stall.measure import Clock, Save, bytes_below, require_equal, timed
from benchmarks.stall.workers import serve
from launcher.checkpoint.fragments import BUFFER, Fragment, SavedTensors
from launcher.checkpoint.manifest import read_manifest, why_unusable
from launcher.recipe.resolve import resolve
from launcher.train import engine_state, run, saver
from launcher.train.optim import set_learning_rate
from launcher.train.progress import Progress
from launcher.train.session import Session
from launcher.train.step import train_step
from launcher.train.timings import Timings
from launcher.world import World

LEARNING_RATE = 1e-4


class Behind:
    """What goes on behind training: when it ended, and the CPU seconds of its threads."""

    def __init__(self, wait: Callable[[], Any]) -> None:
        self._cpu = time.process_time() - time.thread_time()
        self._ended = 0.0

        def watch() -> None:
            wait()
            self._ended = time.perf_counter()

        self._thread = threading.Thread(target=watch)
        self._thread.start()

    def join(self, began: float) -> tuple[float, float]:
        """Wait for the end; return seconds since `began` and CPU seconds of other threads."""
        self._thread.join()
        cpu = time.process_time() - time.thread_time() - self._cpu
        return self._ended - began, cpu


class Rank:
    """A session that trains a step now and then, and saves in between."""

    def __init__(self, session: Session, progress: Progress, folder: Path) -> None:
        self._session = session
        self._progress = progress
        self._folder = folder
        self._parts: dict[str, float] = {}
        self._watch_parts()
        self._saver = saver.Saver(session, progress.step, Timings())
        self._stager = DefaultStager(StagingOptions(False, False, False, False))
        self._group = dist.new_group(backend="gloo")  # DCP's, whose thread talks beside training
        set_learning_rate(session.engine.optimizer.param_groups, LEARNING_RATE)
        self._train()  # makes the moments
        self._buffers = [torch.zeros_like(fragment.tensor) for fragment in self._live()]

    def describe(self) -> dict[str, int]:
        """Return the size of what this rank saves."""
        live = self._live()
        return {
            "parameters": sum(p.numel() for p in self._session.engine.module.parameters()),
            "tensors": len(live),
            "bytes": sum(fragment.tensor.nbytes for fragment in live),
        }

    def answer(self, command: str) -> Save:
        """Train a step and do one thing, on all ranks from the same moment on."""
        self._train()
        expected = self._clone()
        match command:
            case "copy":
                return self._copy()
            case "launcher":
                return self._save_by_launcher(expected)
            case "dcp":
                return self._save_by_dcp(expected, None)
            case "dcp-kept":
                return self._save_by_dcp(expected, self._stager)
        raise ValueError(command)

    def _copy(self) -> Save:
        """The floor: the same tensors into memory that is there and has been touched."""
        live = self._live()
        dist.barrier()
        with Clock() as clock:
            for buffer, fragment in zip(self._buffers, live, strict=True):
                buffer.copy_(fragment.tensor)
        return Save(clock.wall, clock.cpu)

    def _save_by_launcher(self, expected: list[Fragment]) -> Save:
        self._parts.clear()
        dist.barrier()
        with Clock() as clock:
            self._saver.save(self._progress)
        write = self._saver._write
        assert write is not None
        assert write.thread is not None
        parts = {**self._parts, "copy": write.stall_seconds}
        behind = Behind(write.thread.join)
        self._train()  # what was copied must not follow
        seconds, cpu = behind.join(clock.ended)
        self._saver.finish(required=True)
        self._check_launchers(write.folder, expected)
        size = bytes_below(write.folder) if self._is_main else 0
        return Save(clock.wall, clock.cpu, size, seconds, cpu, parts)

    def _save_by_dcp(self, expected: list[Fragment], stager: DefaultStager | None) -> Save:
        """DCP with its own staging: new memory for every save, or (`stager`) kept between them."""
        folder = self._folder / "dcp"
        state = {fragment.key: fragment.tensor for fragment in self._live()}
        dist.barrier()
        with Clock() as clock:
            future = dcp.async_save(
                state, checkpoint_id=folder, process_group=self._group, async_stager=stager
            )
        behind = Behind(future.result)
        self._train()
        seconds, cpu = behind.join(clock.ended)
        dist.barrier()
        size = bytes_below(folder) if self._is_main else 0
        found = {fragment.key: torch.zeros_like(fragment.tensor) for fragment in expected}
        dcp.load(found, checkpoint_id=folder, process_group=self._group)
        for fragment in expected:
            require_equal(found[fragment.key], fragment.tensor, f"DCP, {fragment.key}")
        self._check_moved_on(expected)
        dist.barrier()
        if self._is_main:
            shutil.rmtree(folder)
        return Save(clock.wall, clock.cpu, size, seconds, cpu)

    def _check_launchers(self, folder: Path, expected: list[Fragment]) -> None:
        reason = why_unusable(folder)
        assert reason is None, f"{folder} {reason}"
        with SavedTensors(folder, read_manifest(folder)) as saved:
            for fragment in expected:
                numel = fragment.tensor.numel()
                if fragment.kind == BUFFER:
                    found = saved.buffer(fragment.name)
                else:
                    found = saved.read(fragment.kind, fragment.name, fragment.start, numel)
                require_equal(found, fragment.tensor, f"launcher, {fragment.key}")
        self._check_moved_on(expected)

    def _check_moved_on(self, expected: list[Fragment]) -> None:
        """See to it that the gate can fail: training has changed what was saved."""
        pairs = zip(self._live(), expected, strict=True)
        assert any(not torch.equal(now.tensor, then.tensor) for now, then in pairs)

    def _train(self) -> None:
        result = train_step(self._session, self._session.windows.window(self._progress.step))
        self._progress.advance(0, result.num_tokens, result.loss_sum, result.num_targets)

    def _live(self) -> list[Fragment]:
        return list(engine_state.fragments(self._session.engine))

    def _clone(self) -> list[Fragment]:
        return [replace(fragment, tensor=fragment.tensor.clone()) for fragment in self._live()]

    @property
    def _is_main(self) -> bool:
        return self._session.world.is_main_process

    def _watch_parts(self) -> None:
        """Time what a save does beside copying."""
        saver.probe = timed(self._parts, "probe", saver.probe)
        saver.Saver._make_room = timed(self._parts, "folder", saver.Saver._make_room)
        saver.first_trouble = timed(self._parts, "agreement", saver.first_trouble)
        recorder = self._session.recorder
        recorder.sync = timed(self._parts, "records", recorder.sync)


def main() -> None:
    """Join the run and serve."""
    torch.set_num_threads(1)
    address, recipe, folder, *overrides = sys.argv[1:]
    world = World.from_environment()

    def serve_instead(session: Session, progress: Progress) -> str:
        rank = Rank(session, progress, Path(folder))
        serve(address, rank.describe(), rank.answer)
        sys.stdout.flush()
        os._exit(0)  # nothing to evaluate or export

    run.train = serve_instead
    with Path(os.devnull).open("w") as terminal:
        run.run_rank(resolve(recipe, overrides, world.world_size), world, terminal)


if __name__ == "__main__":
    main()
