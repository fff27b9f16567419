"""`launcher status`: one run on a few lines, once or until it ends."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from launcher.cluster.follow.facts import RunState
from launcher.cluster.follow.judge import in_words
from launcher.cluster.follow.read import Queue, find_run, read_state, runs_in
from launcher.cluster.follow.text import columns, duration, names
from launcher.cluster.post_mortem import attempt_lines, spent_text
from launcher.errors import InputError, Problem
from launcher.escape import for_terminal
from launcher.run_dir import RunDir

RUNS = Path("runs")
INTERVAL_SECONDS = 1.0
SILENT_SECONDS = 60.0
"""Heartbeats come every second: a running run that is silent for this long deserves a word."""
COLOURS = {
    "running": "green", "finished": "green", "failed": "red", "lost": "red",
    "pending": "yellow", "requeued": "yellow", "stopped": "yellow",
}  # fmt: skip


def show_status(run_folder: Path | None, *, watch: bool, console: Console | None = None) -> None:
    """Print the state of a run (absent: the newest under ./runs); with `watch` until it ends.

    On a terminal the same lines are drawn anew, elsewhere a block is printed for each change.

    Raises:
        InputError: there is no such run.
    """
    run_dir = newest_run(RUNS) if run_folder is None else find_run(run_folder)
    console = console or Console(highlight=False, markup=False, soft_wrap=True)
    queue = Queue()
    state = read_state(run_dir, queue)
    if not watch:
        console.print(render(state))
    elif console.is_terminal:
        with Live(render(state), console=console, auto_refresh=False) as live:
            while state.is_open:
                time.sleep(INTERVAL_SECONDS)
                state = read_state(run_dir, queue)
                live.update(render(state), refresh=True)
    else:
        _print_changes(run_dir, state, queue, console)


def newest_run(folder: Path) -> RunDir:
    """Return the run of a folder that was written to last.

    Raises:
        InputError: there is none.
    """
    found = runs_in(folder)
    if not found:
        raise InputError(Problem(str(folder), "", "holds no run.", "Name a run folder."))
    return found[-1]


def render(state: RunState) -> Text:
    """Return what is known of a run, as a few lines."""
    head = Text(for_terminal(f"{state.name}  "), style="bold")
    head.append(state.state, style=COLOURS[state.state])
    if state.verdict.note:
        head.append(for_terminal(f"  {state.verdict.note}"), style="default")
    return Text("\n").join([head, *map(Text, lines(state))])


def lines(state: RunState) -> list[str]:
    """Return everything below the head, without what isn't known."""
    rows = [
        ("job", _job(state)),
        ("nodes", _nodes(state)),
        ("step", _step(state)),
        ("loss", _loss(state)),
        ("speed", _speed(state)),
        ("left", _left(state)),
        ("next", _next(state)),
        ("attempts", spent_text(state.attempts) if state.attempts else ""),
        *_cause(state),
    ]
    shown = columns([row for row in rows if row[1]], indent="  ")
    if len(state.attempts) > 1:
        shown += ["", *(f"  {line}" for line in attempt_lines(state.attempts))]
    return shown


def _print_changes(run_dir: RunDir, state: RunState, queue: Queue, console: Console) -> None:
    before = None
    while True:
        now = _change_key(state)
        if now != before:
            console.print(render(state))
        before = now
        if not state.is_open:
            return
        time.sleep(INTERVAL_SECONDS)
        state = read_state(run_dir, queue)


def _change_key(state: RunState) -> tuple[object, ...]:
    """Return what makes a new block: not that time passes."""
    job = (state.job.state, state.job.reason, state.job.nodes) if state.job else None
    return state.verdict, job, state.step, len(state.attempts), state.validation_loss


def _job(state: RunState) -> str:
    if state.submitted is None or state.job_id is None:
        return ""
    if state.job is None:
        return f"{state.job_id}, submitted {state.submitted.submitted}"
    count = state.job.restart_count
    again = f", requeued {count} time{'s' if count > 1 else ''}" if count else ""
    return f"{state.job_id} {in_words(state.job)}{again}"


def _nodes(state: RunState) -> str:
    if state.state in ("pending", "requeued"):
        return ""
    ranks = state.attempts[-1].world_size if state.attempts else 0
    said = [names(state.nodes), f"{ranks} rank{'s' if ranks > 1 else ''}" if ranks else ""]
    return " · ".join(part for part in said if part)


def _step(state: RunState) -> str:
    phase = f", {state.phase}" if state.state == "running" and state.phase else ""
    if state.total_steps is None:
        return f"{state.step}{phase}{_silence(state)}" if state.step or phase else ""
    share = f" ({state.step / state.total_steps:.0%})"
    return f"{state.step} of {state.total_steps}{share}{phase}{_silence(state)}"


def _silence(state: RunState) -> str:
    if state.state != "running" or state.updated is None or not state.attempts:
        return ""
    silent = time.time() - state.updated
    return f", no sign of life for {duration(silent)}" if silent > SILENT_SECONDS else ""


def _loss(state: RunState) -> str:
    said = [f"{state.loss:.4f}"] if state.loss is not None else []
    if state.validation_loss is not None:
        said.append(f"validation {state.validation_loss:.4f}")
    if state.best is not None:
        metric = state.best.metric.removeprefix("validation/")
        name = "best" if metric == "loss" else f"best {metric}"
        said.append(f"{name} {state.best.value:.4f} at step {state.best.step}")
    return " · ".join(said)


def _speed(state: RunState) -> str:
    if state.tokens_per_second is None or state.step_seconds is None:
        return ""
    return f"{state.tokens_per_second:,.0f} tokens/s · {state.step_seconds:.3g} s a step"


def _left(state: RunState) -> str:
    if not state.is_open:
        return ""
    said = [f"run {duration(state.run_seconds_left)}"] if state.run_seconds_left else []
    if state.state == "running" and state.limit_seconds_left is not None:
        which = "launch" if state.job is None else "job"
        lead = state.submitted.lead_seconds if state.submitted and state.job else None
        warned = f" (warned {duration(lead)} before its end)" if lead else ""
        said.append(f"{which} {duration(state.limit_seconds_left)}{warned}")
    return " · ".join(said)


def _next(state: RunState) -> str:
    """Say what comes first: the warning of the time limit, or something in the run."""
    if state.state != "running":
        return ""
    ahead, limit = state.next_event, state.limit_seconds_left
    if limit is not None and state.job is not None and state.submitted is not None:
        warning = limit - (state.submitted.lead_seconds or 0)
        if ahead is None or (ahead.seconds is not None and warning < ahead.seconds):
            return f"warning of the time limit in {duration(warning)}: it saves, and requeues"
    if ahead is None:
        return ""
    return f"{ahead}, in {duration(ahead.seconds)}" if ahead.seconds is not None else str(ahead)


def _cause(state: RunState) -> list[tuple[str, str]]:
    """Say why the last attempt that ended otherwise than it should did so, and what to do."""
    ended = [a for a in state.attempts if a.outcome in ("failed", "lost", "stopped")]
    if not ended or state.state == "finished":
        return []
    last = ended[-1]
    head = f"attempt {last.number} {last.outcome}"
    if last.category and last.outcome == "failed":
        head += f", {last.category}"
    resumes = "" if state.is_open else "The same command resumes the run."
    do = last.action or (resumes if last.outcome == "stopped" else "")
    return [("last", f"{head}: {last.why}"), ("do", do)]
