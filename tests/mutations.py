"""`make mutations`: breaks the product by one line at a time, and sees the tests fail each time.

python -m tests.mutations                    all of them
python -m tests.mutations "commit order"     some

Each is tried on a copy of the tracked files; the tests named are part of `make test`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Mutation:
    """One line of the package, and another that breaks a promise."""

    promise: str
    path: str
    """Below `launcher/`."""
    line: str
    """Stands exactly once in the file."""
    broken: str
    tests: str
    """The file of tests, or the test, that must fail."""

    def apply(self, repository: Path) -> None:
        """Break the copy of the product in `repository`."""
        path = repository / "launcher" / self.path
        text = path.read_text(encoding="utf-8")
        assert text.count(self.line) == 1, f"{self.promise}: {path} has {text.count(self.line)}"
        path.write_text(text.replace(self.line, self.broken), encoding="utf-8")


MUTATIONS = (
    Mutation(
        "bitwise resume",
        "train/engine_state.py",
        "                    piece.of(state[moment]).copy_(part)\n",
        "                    piece.of(state[moment]).copy_(part * (1 + 1e-6))\n",
        "tests/ranks/test_resume.py",
    ),
    Mutation(
        "geometry",
        "train/step.py",
        "    scale = world.world_size / num_targets\n",
        "    scale = 1 / num_targets\n",
        "tests/ranks/test_geometry.py",
    ),
    Mutation(
        "stop agreement",
        "train/stopping.py",
        "    if agreed:\n",
        "    if code:\n",
        "tests/e2e/test_stop.py",
    ),
    Mutation(
        "commit order",
        "train/saver.py",
        "                files = self._await_records(write)\n",
        "                files = self._await_records(write); self._tidy(write)\n",
        "tests/ranks/test_intervals.py",
    ),
    Mutation(
        "digest check",
        "checkpoint/manifest.py",
        "            if sha256_of(folder / name) != files[name].sha256:\n",
        "            if sha256_of(folder / name) == '':\n",
        "tests/unit/checkpoint/test_store.py",
    ),
    Mutation(
        "learning rate",
        "train/schedule.py",
        "        return train.learning_rate * (step + 1) / warmup_steps\n",
        "        return train.learning_rate * step / warmup_steps\n",
        "tests/ranks/test_learning_rate.py",
    ),
    Mutation(
        "token normalisation",
        "train/step.py",
        "    num_targets = int(train.num_targets[window.sample_ids].sum())\n",
        "    num_targets = len(window.sample_ids)\n",
        "tests/ranks/test_geometry.py",
    ),
    Mutation(
        "mask",
        "data/chat.py",
        "        mask = mask_of_spans(offsets, spans)\n",
        "        mask = [True] * len(offsets)\n",
        "tests/unit/data/test_chat.py",
    ),
    Mutation(
        "export check",
        "checkpoint/verify.py",
        "    if not measured <= tolerance:\n",
        "    if measured < 0:\n",
        "tests/ranks/test_export.py",
    ),
    Mutation(
        "early stopping across a kill",
        "train/early_stop.py",
        '        return cls(**{**state, "history": history})\n',
        '        return cls(**{**state, "history": history, "without_improvement": 0})\n',
        "tests/ranks/test_resume.py",
    ),
    Mutation(
        "secret redaction",
        "recipe/secrets.py",
        "        text = pattern.sub(MASK, text)\n",
        "        pattern.sub(MASK, text)\n",
        "tests/unit/recipe/test_secrets.py",
    ),
    Mutation(
        "node loss",
        "cluster/nodes/head.py",
        "                self._lost.append(found)\n",
        "                continue\n",
        "tests/e2e/test_nodes.py",
    ),
)


def main() -> int:
    """Try the mutations; exit 1 if the tests pass with one of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations")
    known = [mutation.promise for mutation in MUTATIONS]
    parser.add_argument("promises", nargs="*", choices=[[], *known], metavar="PROMISE")
    wanted = parser.parse_args().promises
    chosen = [mutation for mutation in MUTATIONS if not wanted or mutation.promise in wanted]
    for tests in dict.fromkeys(mutation.tests for mutation in chosen):
        assert run_on_copy(tests).returncode == 0, f"{tests} fails on the product as it is"
    survivors = [mutation.promise for mutation in chosen if not is_found(mutation)]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} broken products were found out")
    return 1 if survivors else 0


def is_found(mutation: Mutation) -> bool:
    """Return whether the tests fail on a broken copy; print which one did."""
    done = run_on_copy(mutation.tests, mutation)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    # Exit code 1 is failed tests; others are pytest's own trouble, which proves nothing.
    found = done.returncode == 1 and bool(failed)
    told = failed[0][:160] if found else f"pytest exited with {done.returncode}"
    print(f"{'found   ' if found else 'SURVIVED'} {mutation.promise}: {told}", flush=True)
    return found


def run_on_copy(tests: str, mutation: Mutation | None = None) -> subprocess.CompletedProcess[str]:
    """Run tests on a copy of the product, broken by a mutation if there is one."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder)
        copy_repository(copy)
        if mutation is not None:
            mutation.apply(copy)
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", tests],
            cwd=copy,
            # Before the installed package, for the tests and for all that they start.
            env=os.environ | {"PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
        )


def copy_repository(target: Path) -> None:
    """Copy the tracked files, and lead to the models and data that were made from packages."""
    names = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for name in names:
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)
    (target / "quickstart" / "assets").symlink_to(REPOSITORY / "quickstart" / "assets")


if __name__ == "__main__":
    sys.exit(main())
