"""`make faults`: injects every fault, prints what came of it, and writes docs/faults.md.

python -m tests.faults                 all of it
python -m tests.faults F3 F4           some faults; the table keeps the rows of the others
python -m tests.faults --sample 2      at most two trials a fault, by a fixed seed
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

import tests.conftest  # noqa: F401 - sets the variables that torch reads when it is imported
from quickstart import assets
from tests.faults import damage, deaths, folders, hostile, inputs, saves, stops, surroundings
from tests.faults.catalogue import FAULTS
from tests.faults.setting import SETTINGS, Bench, Setting
from tests.faults.table import Result, load_results, save_results, write_table
from tests.faults.trial import Trial
from tests.support.operators import build_operators
from tests.support.small_data import write_small_topics
from tests.support.tiny_model import write_tiny_bert

SEED = 20261123


def make_bench(root: Path) -> Bench:
    """Write the small model and data that all trials share.

    What the ranks import is imported here, once: forked ranks then start in a moment.
    """
    import launcher.train.prepare
    import launcher.train.run  # noqa: F401

    model, topics = root / "model", root / "topics"
    model.mkdir()
    topics.mkdir()
    write_tiny_bert(assets.minilm(assets.FOLDER), model)
    write_small_topics(assets.topics(assets.FOLDER), topics)
    return Bench(model, topics, root)


def all_trials(bench: Bench, wanted: set[str], looked_at: list[Setting] = SETTINGS) -> list[Trial]:
    """Return the trials of the wanted faults.

    Those of F3 and F4 are known only from an undisturbed run, of each setting in `looked_at`.
    """
    folder = Path(tempfile.mkdtemp(dir=bench.root))
    modules = (stops, saves, damage, deaths, inputs, folders, hostile, surroundings)
    trials = [trial for module in modules for trial in module.TRIALS]
    if "F1" in wanted:
        trials += deaths.kills_at_random_steps(SEED)
    if "F3" in wanted:
        trials += saves.kills_at_every_point(bench, folder, looked_at)
    if "F4" in wanted:
        trials += stops.signals_at_random_places(bench, folder, looked_at, SEED)
    order = list(FAULTS)
    chosen = [trial for trial in trials if trial.fault in wanted]
    return sorted(chosen, key=lambda trial: order.index(trial.fault))


def main() -> int:
    """Run the trials; exit 1 if one of them does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("faults", nargs="*", choices=[[], *FAULTS], metavar="FAULT")
    parser.add_argument("--sample", type=int, metavar="N", help="at most N trials a fault")
    arguments = parser.parse_args()
    if os.geteuid():
        sys.exit("make faults needs root: it mounts disks and limits memory")
    build_operators()
    wanted = [fault for fault in FAULTS if fault in (arguments.faults or FAULTS)]
    failed = done = 0
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        bench = make_bench(Path(folder))
        for fault in wanted:
            trials = all_trials(bench, {fault})
            if arguments.sample:
                trials = sample(trials, arguments.sample)
            results = [carry_out(trial, bench) for trial in trials]
            if not arguments.sample:
                keep(results)
            failed += sum(not result.held for result in results)
            done += len(results)
    print(f"{done - failed} of {done} trials held")
    return 1 if failed else 0


def keep(results: list[Result]) -> None:
    """Put the results of one fault in place of its earlier ones, and write the table."""
    faults = {result.fault for result in results}
    kept = [result for result in load_results() if result.fault not in faults]
    save_results([*kept, *results])
    write_table([*kept, *results])


def sample(trials: list[Trial], most: int) -> list[Trial]:
    """Return at most `most` trials of each fault, by a fixed seed."""
    chance = random.Random(SEED)
    chosen: list[Trial] = []
    for fault in FAULTS:
        own = [trial for trial in trials if trial.fault == fault]
        chosen += chance.sample(own, min(most, len(own)))
    return chosen


def carry_out(trial: Trial, bench: Bench) -> Result:
    """Carry out one trial, and print and return what came of it."""
    folder = Path(tempfile.mkdtemp(dir=bench.root))
    try:
        said, held = trial.run(bench, trial.setting, folder), True
    except Exception as error:  # a trial that breaks is one that doesn't hold
        traceback.print_exc()
        said, held = f"{type(error).__name__}: {str(error)[:300]}", False
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{'ok  ' if held else 'FAIL'} {trial}: {said}", flush=True)
    return Result(trial.fault, str(trial.setting), trial.name, held, said)


if __name__ == "__main__":
    sys.exit(main())
