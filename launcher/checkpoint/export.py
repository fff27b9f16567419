"""Weights for others out of a committed checkpoint, checked before they are called done.

One process, no engine, no network. Everything is written beside the target, read back with plain
transformers or peft, compared with the live model's answers and only then moved into place.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from launcher.checkpoint import reload
from launcher.checkpoint.adapters import ADAPTER_FILE, adapter_shapes, merge_adapter, write_adapter
from launcher.checkpoint.base_tensors import any_changed
from launcher.checkpoint.consolidate import LazyTensor, held, trained_tensors
from launcher.checkpoint.describe import (
    Description,
    plain_transformers,
    read_description,
    save_companions,
    skeleton,
)
from launcher.checkpoint.manifest import read_manifest
from launcher.checkpoint.model_card import Card, metrics_at, write_card
from launcher.checkpoint.probe import TOLERANCES, Probe, answer, difference, read_probe
from launcher.checkpoint.shards import write_model
from launcher.checkpoint.store import best_verified, newest_verified
from launcher.checkpoint.verify import (
    adapter_moved,
    check_files,
    check_sources,
    only_trained,
    require_change,
    require_same_answers,
)
from launcher.errors import InputError, LauncherError, Problem
from launcher.recipe.load import load_recipe
from launcher.recipe.schema import Recipe
from launcher.run_dir import RunDir

Kind = Literal["full", "adapter", "merged"]


@dataclass(frozen=True)
class ExportReport:
    """What was exported and how it was checked."""

    folder: str
    """Name of the folder."""
    kind: Kind
    step: int
    """The optimizer step the weights are from."""
    num_tensors: int
    num_bytes: int
    max_logit_difference: float
    """Largest difference of a logit between the reloaded export and its reference, relative."""
    tolerance: float
    reference: Literal["live model", "adapter on the unquantised base"]
    """What the reloaded export was compared with."""
    live_difference: float
    """The same difference to the live model; not the reference for a merged QLoRA."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Work:
    """What every step of one export needs."""

    run_dir: RunDir
    recipe: Recipe
    description: Description
    trained: Mapping[str, LazyTensor]
    probe: Probe
    step: int
    folder: Path

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.recipe.model.dtype)
        return dtype


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
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with plain_transformers():
            description = read_description(run_dir)
            found = trained_tensors(checkpoint, manifest.zero_stage)
            work = _Work(
                run_dir,
                recipe,
                description,
                only_trained(found, description.trained),
                read_probe(checkpoint),
                manifest.step,
                folder,
            )
            if work.description.adapter is None:
                report = _export_model(work, out)
            elif merge:
                report = _export_merged(work, out)
            else:
                report = _export_adapter(work, out)
            _write_companions(work, report)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _move_into_place(folder, out)
    return report


def _export_model(work: _Work, out: Path) -> ExportReport:
    """Write every weight: the trained ones, and for a frozen backbone the base model's."""
    outline = skeleton(work.description)
    tied = getattr(outline, "all_tied_weights_keys", {})
    shapes = {n: tuple(t.shape) for n, t in outline.state_dict().items() if n not in tied}
    trained = work.trained
    sources = trained if len(trained) == len(shapes) else {**_frozen(work, shapes), **trained}
    tensors = {name: sources[name] for name in shapes if name in sources}
    check_sources(tensors, shapes)
    changed = any_changed(work.recipe, trained, outline.base_model_prefix, work.dtype)
    require_change(changed, work.step)
    size = write_model(work.folder, tensors, work.dtype)
    work.description.config.save_pretrained(work.folder)
    check_files(work.folder, shapes)
    reloaded = reload.load_model(work.folder, work.recipe, work.description)
    return _report(work, out, "full", len(tensors), size, reloaded)


def _frozen(work: _Work, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, LazyTensor]:
    base = reload.load_base(work.recipe, work.description, quantized=False)
    return {name: held(tensor) for name, tensor in base.state_dict().items() if name in shapes}


def _export_adapter(work: _Work, out: Path) -> ExportReport:
    shapes = adapter_shapes(work.description)
    size = write_adapter(work.folder, work.description, work.trained, work.dtype)
    check_files(work.folder, shapes)
    require_change(adapter_moved(work.folder / ADAPTER_FILE), work.step)
    base = reload.load_base(work.recipe, work.description, quantized=True)
    reloaded = reload.load_adapter(base, work.folder)
    return _report(work, out, "adapter", len(shapes), size, reloaded)


def _export_merged(work: _Work, out: Path) -> ExportReport:
    """Fold the adapter into the unquantised base, and hold it against the two unmerged."""
    adapter_folder = work.folder / "adapter"
    adapter_folder.mkdir()
    write_adapter(adapter_folder, work.description, work.trained, work.dtype)
    require_change(adapter_moved(adapter_folder / ADAPTER_FILE), work.step)
    base = reload.load_base(work.recipe, work.description, quantized=False)
    adapted = reload.load_adapter(base, adapter_folder)
    unmerged = answer(adapted, work.probe)
    merged = merge_adapter(adapted)
    shutil.rmtree(adapter_folder)
    merged.config.use_cache = work.description.config.use_cache
    state = {
        name: held(tensor)
        for name, tensor in merged.state_dict().items()
        if name not in getattr(merged, "all_tied_weights_keys", {})
    }
    size = write_model(work.folder, state, work.dtype)
    work.description.config.save_pretrained(work.folder)
    check_files(work.folder, {name: tensor.shape for name, tensor in state.items()})
    reloaded = reload.load_model(work.folder, work.recipe, work.description)
    reference = unmerged if work.description.quantization else None
    return _report(work, out, "merged", len(state), size, reloaded, reference)


def _report(
    work: _Work,
    out: Path,
    kind: Kind,
    num_tensors: int,
    num_bytes: int,
    reloaded: torch.nn.Module,
    reference: torch.Tensor | None = None,
) -> ExportReport:
    """Compare logits and raise TrainingError when they differ by more than the tolerance."""
    logits = answer(reloaded, work.probe)
    live = difference(work.probe, logits, work.probe.logits)
    measured = live if reference is None else difference(work.probe, logits, reference)
    report = ExportReport(
        folder=out.name,
        kind=kind,
        step=work.step,
        num_tensors=num_tensors,
        num_bytes=num_bytes,
        max_logit_difference=measured,
        tolerance=TOLERANCES[work.recipe.model.dtype],
        reference="live model" if reference is None else "adapter on the unquantised base",
        live_difference=live,
    )
    require_same_answers(kind, work.step, measured, report.tolerance)
    return report


def _write_companions(work: _Work, report: ExportReport) -> None:
    save_companions(work.description, work.run_dir, work.folder)
    if report.kind == "adapter":
        # The config of the adapter names the base; a config.json would hide it from peft.
        (work.folder / "generation_config.json").unlink(missing_ok=True)
    checked = (
        f"Read back with plain {'peft' if report.kind == 'adapter' else 'transformers'} before it "
        f"was called done: all {report.num_tensors} tensors are there, and logits differ from "
        f"those of the {report.reference} by at most {report.max_logit_difference:.2g} of the "
        f"largest (allowed: {report.tolerance:g})."
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
    if out.is_file() or (
        out.exists() and any(out.iterdir()) and out.resolve() != run_dir.export.resolve()
    ):
        raise InputError(Problem(str(out), "--out", "is not an empty folder.", "Name a new one."))


def _move_into_place(folder: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    folder.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def main() -> int:
    """Export a run: what `launcher export` starts in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m launcher.checkpoint.export")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--weights", choices=("best", "last"))
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    run_dir = RunDir(arguments.run_dir)
    try:
        if not run_dir.resolved.is_file():
            raise InputError(
                Problem(str(run_dir.resolved), "", "missing: this is not a run folder.")
            )
        recipe = load_recipe(run_dir.resolved).recipe
        best = (arguments.weights or recipe.export.weights) == "best"
        checkpoint = (best_verified(run_dir) if best else None) or newest_verified(run_dir)
        out = arguments.out or run_dir.export
        merge = arguments.merge or recipe.export.merge
        report = export(run_dir, recipe, checkpoint, merge=merge, out=out)
    except LauncherError as error:
        print(error, file=sys.stderr)  # noqa: T201 - this is a command
        return error.exit_code
    print(  # noqa: T201 - this is a command
        f"{out}: {report.kind}, {report.num_tensors} tensors, {report.num_bytes / 1e6:.1f} MB, "
        f"step {report.step}; logits differ by {report.max_logit_difference:.2g} from the "
        f"{report.reference} (allowed {report.tolerance:g})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
