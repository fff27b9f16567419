"""Weights for others out of a committed checkpoint, checked before they are called done.

One process, no engine, no network. Everything is written beside the target, read back with plain
transformers or peft, compared with the live model's answers and only then moved into place.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

from launcher.checkpoint.consolidate import trained_tensors
from launcher.checkpoint.describe import (
    as_described,
    plain_transformers,
    read_description,
    save_companions,
)
from launcher.checkpoint.fragments import SavedTensors
from launcher.checkpoint.kinds import (
    ExportReport,
    Work,
    export_adapter,
    export_merged,
    export_model,
)
from launcher.checkpoint.manifest import read_manifest
from launcher.checkpoint.model_card import Card, metrics_at, write_card
from launcher.checkpoint.probe import read_probe
from launcher.checkpoint.store import best_verified, newest_verified
from launcher.checkpoint.verify import only_trained
from launcher.errors import InputError, LauncherError, Problem, system_errors
from launcher.escape import for_terminal
from launcher.files.read import real
from launcher.files.remove import remove, remove_empty, remove_file
from launcher.files.write import make_folder, rename
from launcher.recipe.load import load_recipe
from launcher.recipe.remote_code import check_remote_code
from launcher.recipe.schema import Recipe
from launcher.run_dir import RunDir

WEIGHTS = re.compile(
    r"model\.safetensors(\.index\.json)?|model-\d{5}-of-\d{5}\.safetensors"
    r"|adapter_model\.safetensors|(adapter_|generation_)?config\.json"
)
"""What exports of different kinds write; the rest is the same for all of a run."""


def export(
    run_dir: RunDir, recipe: Recipe, checkpoint: Path, *, merge: bool, out: Path
) -> ExportReport:
    """Write the weights of a committed checkpoint to `out` and return how they were checked.

    Full models as safetensors shards; adapters alone, or with `merge` folded into the unquantised
    base. The checkpoint's manifest must have been verified. An earlier export of the run is
    replaced; any other folder in the way is an InputError. Raises TrainingError when what was
    written is not what was trained; `out` is then as it was before.
    """
    _refuse_foreign(run_dir, out)
    manifest = read_manifest(checkpoint)
    folder = out.with_name(f".{out.name}.unverified")
    remove(folder, within=out.parent)  # of an export that was killed
    make_folder(folder, mode=0o777)  # for others to read, as far as the umask allows
    try:
        with (
            as_described(run_dir),
            plain_transformers(),
            SavedTensors(checkpoint, manifest) as saved,
        ):
            trusted = recipe.model.trust_remote_code
            description = read_description(run_dir, trust_remote_code=trusted)
            found = trained_tensors(saved)
            work = Work(
                run_dir,
                recipe,
                description,
                only_trained(found, description.trained),
                read_probe(checkpoint),
                manifest.step,
                folder,
            )
            if work.description.adapter is None:
                report = export_model(work, out)
            elif merge:
                report = export_merged(work, out)
            else:
                report = export_adapter(work, out)
            _write_companions(work, report)
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong is worth more
            remove(folder, within=out.parent)
        raise
    return replace(report, kept_beside=_move_into_place(folder, out))


def _write_companions(work: Work, report: ExportReport) -> None:
    save_companions(work.description, work.run_dir, work.folder)
    if report.kind == "adapter":
        # The config of the adapter names the base; a config.json would hide it from peft.
        remove_file(work.folder / "generation_config.json", within=work.folder)
    checked = (
        f"Read back with plain {'peft' if report.kind == 'adapter' else 'transformers'} before it "
        f"was called done: all {report.num_tensors} tensors are there, and logits differ from "
        f"those of the {report.reference} by at most {report.max_logit_difference:.2g}, "
        f"relative to the largest logit (allowed: {report.tolerance:g})."
    )
    if report.reference != "live model":
        checked += (
            " The base was quantised while the adapter was trained; to that model they differ by "
            f"{report.live_difference:.2g}."
        )
    metrics = metrics_at(work.run_dir, report.step)
    card = Card(report.kind, report.step, metrics, checked)
    write_card(work.folder, work.recipe, work.description, card)


def _refuse_foreign(run_dir: RunDir, out: Path) -> None:
    """Raise InputError where what would be replaced is no export of the run."""
    if out.is_symlink():
        message = f"is a link to {out.readlink()}, and an export replaces a folder."
        raise InputError(Problem(str(out), "--out", message, "Name the folder itself."))
    is_ours = real(out) == real(run_dir.export)
    if out.exists() and not (out.is_dir() and (is_ours or not any(out.iterdir()))):
        raise InputError(Problem(str(out), "--out", "is not an empty folder.", "Name a new one."))


def _move_into_place(folder: Path, out: Path) -> tuple[str, ...]:
    """Put an export in the place of an earlier one; return the folders of what no export writes.

    A kill in between leaves the earlier one under its other name, which the next export tidies.
    """
    if out.exists() and any(out.iterdir()):
        old = out.with_name(f"{out.name}-replaced-{time.time_ns()}")
        rename(out, old)
        try:
            rename(folder, out)
        except BaseException:
            rename(old, out)
            raise
    else:
        rename(folder, out)
    replaced = re.compile(re.escape(out.name) + "-replaced-[0-9]{19}")
    olds = [path for path in out.parent.iterdir() if replaced.fullmatch(path.name)]
    return tuple(old.name for old in sorted(olds) if old.is_dir() and not _tidy(old, out))


def _tidy(old: Path, out: Path) -> bool:
    """Remove what an export has written from an earlier one; tell whether nothing else is left."""
    for path in old.iterdir():
        if WEIGHTS.fullmatch(path.name) or (out / path.name).exists():
            with contextlib.suppress(OSError):  # it stays, and is named
                remove(path, within=old)
    if any(old.iterdir()):
        return False
    remove_empty(old, within=out.parent)
    return True


def _require_trust(run_dir: RunDir, recipe: Recipe, *, allowed: bool) -> None:
    """Raise InputError unless the command, too, trusts the code that the recipe trusts."""
    found = check_remote_code(
        recipe.model,
        lambda _: str(run_dir.resolved),
        is_folder=Path(recipe.model.path).expanduser().is_dir(),
        allowed=allowed,
    )
    problems = [problem for _, problem in found]
    if problems:
        raise InputError(problems)


def main() -> int:
    """Export a run: what `launcher export` starts in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m launcher.checkpoint.export")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--weights", choices=("best", "last"))
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--trust-remote-code", action="store_true")
    arguments = parser.parse_args()
    try:
        with system_errors():
            return _run(arguments)
    except LauncherError as error:
        print(for_terminal(str(error)), file=sys.stderr)  # noqa: T201 - this is a command
        return error.exit_code


def _run(arguments: argparse.Namespace) -> int:
    run_dir = RunDir(arguments.run_dir)
    if not run_dir.resolved.is_file():
        raise InputError(Problem(str(run_dir.resolved), "", "missing: this is not a run folder."))
    recipe = load_recipe(run_dir.resolved).recipe
    _require_trust(run_dir, recipe, allowed=arguments.trust_remote_code)
    best = (arguments.weights or recipe.export.weights) == "best"
    checkpoint = (best_verified(run_dir) if best else None) or newest_verified(run_dir)
    out = Path(os.path.abspath(arguments.out or run_dir.export))  # noqa: PTH100 - links stay
    merge = arguments.merge or recipe.export.merge
    report = export(run_dir, recipe, checkpoint, merge=merge, out=out)
    print(  # noqa: T201 - this is a command
        f"{for_terminal(str(out))}: {report.kind}, {report.num_tensors} tensors, "
        f"{report.num_bytes / 1e6:.1f} MB, "
        f"step {report.step}; logits differ by {report.max_logit_difference:.2g} from the "
        f"{report.reference} (allowed {report.tolerance:g})"
    )
    for name in report.kept_beside:
        kept = for_terminal(str(out.with_name(name)))
        print(f"{kept}: what lay there and no export has written")  # noqa: T201 - this is a command
    return 0


if __name__ == "__main__":
    sys.exit(main())
