"""The end of a run on rank 0: export the chosen weights, write the summary and the report."""

from __future__ import annotations

import shutil
from typing import Any

import torch

from launcher.checkpoint.export import export
from launcher.checkpoint.store import best_verified, newest_verified
from launcher.errors import TrainingError
from launcher.files.write import write_json
from launcher.metrics.record import finite_json
from launcher.metrics.report import build_report
from launcher.run_dir import RunDir
from launcher.train.agree import decided_by_main
from launcher.train.progress import Progress
from launcher.train.session import Session


def is_finished(run_dir: RunDir, device: torch.device) -> bool:
    """Return, as rank 0 sees it, whether this run has nothing left to do."""
    return bool(decided_by_main(int(run_dir.summary.exists()), device))


def finish(session: Session, progress: Progress, outcome: str) -> None:
    """Export and sum up; the summary comes last, since it says that nothing is left to do.

    Other ranks have nothing to do here: what is exported is a committed checkpoint, not the engine.

    Raises:
        TrainingError: the disk is in the way; the same command does it again.
    """
    if not session.world.is_main_process:
        return
    try:
        hand_over(session, progress, outcome)
    except OSError as error:
        run_dir = session.run_dir
        free = shutil.disk_usage(run_dir.root).free
        raise TrainingError(
            f"{error.filename or run_dir.root}: {error.strerror} ({free} bytes are free). Training"
            f" is over and saved in {run_dir.latest}; make room, and the same command exports it."
        ) from error


def hand_over(session: Session, progress: Progress, outcome: str) -> None:
    """Write the export, the summary and the report."""
    run_dir, recipe = session.run_dir, session.recipe
    best = best_verified(run_dir) if recipe.export.weights == "best" else None
    report = export(
        run_dir,
        recipe,
        best or newest_verified(run_dir),
        merge=recipe.export.merge,
        out=run_dir.export,
    )
    best_step = progress.stop.best_step
    if recipe.export.weights == "best" and best_step not in (None, report.step):
        message = (
            f"the export has the weights of step {report.step}: those of the best step,"
            f" {best_step}, are not kept."
        )
        session.recorder.event("warning", step=progress.step, message=message)
    fields = report.to_json()
    for name in report.kept_beside:
        message = f"{name} has what lay in the export's place and no export has written."
        session.recorder.event("warning", step=progress.step, message=message)
    session.recorder.event("export", weights=fields.pop("kind"), **fields)
    summary = summarise(session, progress, outcome)
    write_json(run_dir.summary, finite_json(summary))
    session.recorder.event("finish", step=progress.step, outcome=outcome)
    try:
        build_report(run_dir)
    except Exception as error:  # noqa: BLE001 - the run is done, whatever the page lacks
        message = f"{run_dir.report.name} was not written: {error}. `launcher report` writes it."
        session.recorder.event("warning", step=progress.step, message=message)


def summarise(session: Session, progress: Progress, outcome: str) -> dict[str, Any]:
    """Return what the run came to, as JSON values."""
    stop = progress.stop
    best = None
    if stop.best_step is not None:
        best = {"step": stop.best_step, "metric": session.monitor, "value": stop.best_value}
    return {
        "outcome": outcome,
        "step": progress.step,
        "best": best,
        "overfitting_since": stop.overfitting_since,
        "seconds": progress.seconds,
        "first_evaluation": progress.first_evaluation,
        "best_evaluation": progress.best_evaluation,
        "last_evaluation": progress.last_evaluation,
        "skipped_steps": progress.skipped_steps,
        "export": str(session.run_dir.export.relative_to(session.run_dir.root)),
    }
