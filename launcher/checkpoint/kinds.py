"""The three kinds of export: a full model, an adapter alone, an adapter folded into its base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from launcher.checkpoint import reload
from launcher.checkpoint.base_tensors import any_changed
from launcher.checkpoint.consolidate import LazyTensor, held
from launcher.checkpoint.describe import Description, skeleton
from launcher.checkpoint.probe import TOLERANCES, Probe, answer, difference
from launcher.checkpoint.shards import write_model
from launcher.checkpoint.verify import (
    adapter_moved,
    check_files,
    check_sources,
    require_change,
    require_same_answers,
)
from launcher.files.remove import remove
from launcher.files.write import make_folder
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
    kept_beside: tuple[str, ...] = ()
    """Folders of what lay in the export's place and no export has written."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Work:
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
        """The dtype weights are stored in: the recipe's."""
        dtype: torch.dtype = getattr(torch, self.recipe.model.dtype)
        return dtype


def export_model(work: Work, out: Path) -> ExportReport:
    """Write every weight: the trained ones, and for a frozen backbone the base model's."""
    outline = skeleton(work.description)
    shapes, trained = _untied_shapes(outline), work.trained
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


def _untied_shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Return what a file of the model holds: every tensor once, under its first name."""
    tied = getattr(model, "all_tied_weights_keys", {})
    return {n: tuple(t.shape) for n, t in model.state_dict().items() if n not in tied}


def _frozen(work: Work, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, LazyTensor]:
    base = reload.load_base(work.recipe, work.description, quantized=False)
    return {name: held(tensor) for name, tensor in base.state_dict().items() if name in shapes}


def export_adapter(work: Work, out: Path) -> ExportReport:
    """Write the adapter alone, and check it on the base as it was in training."""
    from launcher.checkpoint import adapters  # here, because a full model's export needs no peft

    shapes = adapters.adapter_shapes(work.description)
    size = adapters.write_adapter(work.folder, work.description, work.trained, work.dtype)
    check_files(work.folder, shapes)
    require_change(adapter_moved(work.folder / adapters.ADAPTER_FILE), work.step)
    base = reload.load_base(work.recipe, work.description, quantized=True)
    reloaded = reload.load_adapter(base, work.folder)
    return _report(work, out, "adapter", len(shapes), size, reloaded)


def export_merged(work: Work, out: Path) -> ExportReport:
    """Fold the adapter into the unquantised base, and hold it against the two unmerged."""
    from launcher.checkpoint import adapters

    adapter_folder = work.folder / "adapter"
    make_folder(adapter_folder)
    adapters.write_adapter(adapter_folder, work.description, work.trained, work.dtype)
    require_change(adapter_moved(adapter_folder / adapters.ADAPTER_FILE), work.step)
    base = reload.load_base(work.recipe, work.description, quantized=False)
    adapted = reload.load_adapter(base, adapter_folder)
    unmerged = answer(adapted, work.probe)
    merged = adapters.merge_adapter(adapted)
    remove(adapter_folder, within=work.folder)
    shapes, state = _untied_shapes(skeleton(work.description)), merged.state_dict()
    tensors = {name: held(state[name]) for name in shapes if name in state}
    check_sources(tensors, shapes)
    size = write_model(work.folder, tensors, work.dtype)
    work.description.config.save_pretrained(work.folder)
    check_files(work.folder, shapes)
    reloaded = reload.load_model(work.folder, work.recipe, work.description)
    reference = unmerged if work.description.quantization else None
    return _report(work, out, "merged", len(tensors), size, reloaded, reference)


def _report(
    work: Work,
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
