"""Tries what comes of a run whose folder was altered: it is read, exported and resumed.

python -m tests.support.mutated_runs 2000            that many; --seed S for others

The run is a real one that was killed in the middle. After each mutation nobody may fail with a
traceback, nothing outside the run folder may change, and the resumed run is the uninterrupted one
or is refused by name.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import tests.conftest  # noqa: F401 - sets the variables that torch reads when it is imported
from launcher.run_dir import RunDir
from tests.faults.__main__ import make_bench
from tests.faults.attempt import Attempt, attempt
from tests.faults.places import die_after_save
from tests.faults.setting import Bench, Setting, exported
from tests.support.followed import write_attempt, write_beat, write_cause, write_job
from tests.support.mutate import mutate
from tests.support.ranks import start_ranks
from tests.support.readers import read_all
from tests.support.training import events, records, run_folder

SETTING = Setting(2, "full")
SECONDS = 60.0
NUM_STEPS = 4
CODES = (0, 1, 2, 3)
"""Finished, failed with its reason, refused, no checkpoint."""


class Mutated:
    """A killed run, and what it comes to if nothing is altered."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bench: Bench = make_bench(root)
        self.recipe: dict[str, Any] = self.bench.recipe(
            root,
            SETTING,
            train={"max_steps": NUM_STEPS},
            evaluate={"every_steps": 2},
            checkpoint={"every_steps": 1, "keep_last": 3},
            cluster={"cpu_ranks": 1},
        )
        self.run_dir = run_folder(self.recipe)
        self.template, self.whole = root / "template", RunDir(root / "whole")
        self._train(3)
        self._fill()
        shutil.move(self.run_dir.root, self.template)
        shutil.copytree(self.template, self.run_dir.root, symlinks=True)
        done = self._resume()
        assert done.statuses == [0], done.text
        shutil.move(self.run_dir.root, self.whole.root)
        shutil.copytree(self.whole.root, root / "runs" / "other", symlinks=True)

    def _train(self, step: int) -> None:
        killed = attempt(
            self.recipe, self.root, lambda _rank: die_after_save(self.run_dir, step), world_size=1
        )
        assert killed.statuses == [-9], killed.text

    def _fill(self) -> None:
        """Add what launches and jobs leave in a run folder."""
        for number in (1, 2):
            logs = write_attempt(self.run_dir, number, outcome="failed", hours=1.0)
            write_beat(logs, 0, "n1")
            write_cause(logs, "rank 1 was killed", category="killed", nodes=["n1"], rank=1)
            logs.rank(0).write_text("Loading\r50%\rdone\n")
            logs.failure(1).write_text(json.dumps({"rank": 1, "time": 1.0, "message": "x"}))
        write_job(self.run_dir).ended.write_text('{"requeued": true, "checkpoint": 2}\n')
        self.run_dir.timings.write_text(json.dumps({"step_seconds": 0.1, "save_seconds": 0.2}))

    def _resume(self) -> Attempt:
        return attempt(
            self.recipe, self.root, world_size=1, prepares=False, deadline_seconds=SECONDS
        )

    def outside(self) -> list[tuple[str, int, int]]:
        """Return name, size and time of all that lies beside the run folder."""
        own = (self.run_dir.root, self.root / "out", self.root / "cache" / "digests")
        found = []
        for path in sorted(self.root.rglob("*")):
            if not any(path == one or one in path.parents for one in own):
                state = path.lstat()
                time_ns = 0 if path.is_dir() else state.st_mtime_ns
                found.append((str(path), state.st_size if not path.is_dir() else 0, time_ns))
        return [entry for entry in found if not entry[0].endswith("/recipe.yaml")]

    def try_one(self, chance: random.Random) -> str | None:
        """Alter a copy, use it in every way; return what was wrong."""
        shutil.copytree(self.template, self.run_dir.root, symlinks=True)
        said = [mutate(self.run_dir.root, chance) for _ in range(chance.choice((1, 1, 3)))]
        try:
            wrong = self._wrong()
        finally:
            for folder in (self.run_dir.root, self.root / "out"):
                shutil.rmtree(folder, ignore_errors=True)
        return f"{wrong}: {'; '.join(said)}" if wrong else None

    def _wrong(self) -> str | None:
        before = self.outside()
        looked = start_ranks(1, _look, self.run_dir.root, self.root / "out" / "export")
        status = looked.wait(SECONDS)
        if status != [0]:
            return f"reading and exporting: {status}: {_tail(looked.output()[0])}"
        resumed = self._resume()
        if "Traceback" in resumed.text or resumed.statuses[0] not in CODES:
            return f"resuming: {resumed.statuses}: {_tail(resumed.text)}"
        if resumed.statuses == [0]:
            for key in ("train/loss", "validation/loss"):
                found, whole = records(self.run_dir, key), records(self.whole, key)
                resumed_from = events(self.run_dir, "start")[-1]["resumed_from"]
                later = {step for step in whole if step > resumed_from}
                if not later <= set(found) or any(found[s] != whole.get(s) for s in found):
                    return f"{key} is {found}, not {whole}"
            if exported(self.run_dir) != exported(self.whole):
                return "the exported weights are others"
        elif "Error: " not in resumed.text:
            return f"refused without a word: {_tail(resumed.text)}"
        changed = set(self.outside()) ^ set(before)
        return f"changed outside: {sorted(changed)[:3]}" if changed else None


def _look(run: Path, out: Path) -> None:
    """Read the run and export it; end with exit code 0 if nobody failed."""
    from launcher.checkpoint import export

    try:
        read_all(run)
        sys.argv = ["export", str(run), "--out", str(out)]
        text = io.StringIO()
        with contextlib.redirect_stderr(text), contextlib.redirect_stdout(text):
            code = export.main()
        if code not in CODES or (code and not text.getvalue().strip()):
            print(f"export ended with {code}: {text.getvalue()[-500:]}")
            os._exit(1)
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        os._exit(1)
    os._exit(0)


def _tail(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return " | ".join(lines[-8:])[-1500:]


def main() -> int:
    """Try as many as asked; exit 1 if any was bad."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.mutated_runs")
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory(prefix="runs-") as folder:
        mutated = Mutated(Path(folder).resolve())
        for number in range(asked.count):
            wrong = mutated.try_one(random.Random(asked.seed * 1_000_003 + number))
            if wrong is not None:
                bad += 1
                print(f"seed {asked.seed} number {number}: {wrong}", flush=True)
    print(f"{asked.count - bad} of {asked.count} held")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
