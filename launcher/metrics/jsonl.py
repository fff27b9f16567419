"""The files that outlive everything else: each record is one line, whole over all restarts."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from launcher.errors import TrainingError
from launcher.files.lines import Lines, read_lines
from launcher.files.read import Record
from launcher.files.write import ensure_folder, open_append, put_aside, replace_durably
from launcher.metrics.record import EvaluationRecord, Event, TrainRecord, encode
from launcher.run_dir import RunDir


@dataclass(frozen=True)
class Resumed:
    """What was found in `metrics.jsonl` when a run went on."""

    notes: tuple[str, ...]
    """What was dropped or put aside, in a sentence each."""
    cut_records: int
    """Records of steps after the checkpoint: they are about to be trained again."""
    kept: list[Record]
    """The history that stays."""


def truncate_after(path: Path, step: int) -> Resumed:
    """Cut `path` down to the records of steps <= `step`, in one atomic replacement.

    A kill at any moment leaves the old file or the new one.
    """
    found = read_lines(path)
    ours = [record for record in found.records if _step(record) > -1]
    kept = [record for record in ours if _step(record) <= step]
    return Resumed(_make_clean(path, found, ours, kept), len(ours) - len(kept), kept)


def _make_clean(
    path: Path, found: Lines, ours: list[Record], kept: list[Record]
) -> tuple[str, ...]:
    """See to it that the file holds the records that are kept and no more; return what to say.

    `ours`: those that a launch can have written.
    """
    if found.unreadable:
        aside = put_aside(path)  # whatever it is, it may be somebody's
        return (f"{path.name} {found.unreadable}: put aside as {aside.name}",)
    if len(kept) < len(found.records) or not found.is_clean:
        text = "".join(encode(record) + "\n" for record in kept)
        replace_durably(path, text.encode())
    notes = []
    if found.bad_lines:
        lines = ", ".join(map(str, found.bad_lines))
        notes.append(f"{path.name}: dropped torn line {lines}")
    if len(ours) < len(found.records):
        others = len(found.records) - len(ours)
        notes.append(f"{path.name}: dropped {others} records that no launch writes")
    return tuple(notes)


class JsonlWriter:
    """Appends to `metrics.jsonl` and `events.jsonl`; every record is flushed on its own.

    Each step stands in the file once per kind: after a resume, an evaluation of a step that is
    already there is not written again.
    """

    def __init__(self, run_dir: RunDir, *, resume_step: int) -> None:
        ensure_folder(run_dir.root)
        resumed = truncate_after(run_dir.metrics, resume_step)
        events = read_lines(run_dir.events)
        ours = [event for event in events.records if event.text("kind") is not None]
        self.notes = resumed.notes + _make_clean(run_dir.events, events, ours, ours)
        """What was dropped or put aside of earlier records."""
        self._last_step = {
            "train/loss": _last_step(resumed.kept, is_train=True),
            "validation": _last_step(resumed.kept, is_train=False),
        }
        self._metrics, self._events = open_append(run_dir.metrics), open_append(run_dir.events)

    def train(self, record: TrainRecord) -> None:
        """Append an optimizer step."""
        self._append_step("train/loss", record)

    def evaluation(self, record: EvaluationRecord) -> None:
        """Append an evaluation."""
        self._append_step("validation", record)

    def event(self, event: Event) -> None:
        """Append to the events."""
        _append(self._events, event.to_json())

    def sync(self) -> None:
        """Force everything recorded to the disk: called before a checkpoint is committed."""
        for file in (self._metrics, self._events):
            with _explained(file):
                file.flush()
                os.fsync(file.fileno())

    def close(self) -> None:
        """Force everything to the disk and close the files."""
        if self._metrics.closed:
            return
        self.sync()
        self._metrics.close()
        self._events.close()

    def _append_step(self, kind: str, record: TrainRecord | EvaluationRecord) -> None:
        if record.step <= self._last_step[kind]:
            return
        self._last_step[kind] = record.step
        _append(self._metrics, record.to_json())


def _append(file: TextIO, values: dict[str, Any]) -> None:
    with _explained(file):
        file.write(encode(values) + "\n")
        file.flush()


@contextlib.contextmanager
def _explained(file: TextIO) -> Iterator[None]:
    """Turn a full or broken disk into an error that says what to do."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(Path(file.name).parent).free
        raise TrainingError(
            f"{file.name}: can't record ({error.strerror}; {free} bytes are free). The last"
            " checkpoint is as it was; make room, and the same command resumes."
        ) from error


def _step(record: Record) -> int:
    step = record.integer("step")
    return -1 if step is None else step


def _last_step(records: list[Record], *, is_train: bool) -> int:
    steps = [_step(record) for record in records if ("train/loss" in record) == is_train]
    return max(steps, default=-1)
