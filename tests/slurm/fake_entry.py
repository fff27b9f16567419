"""Stands in for the node entry: writes down what a job gives it, then does what the test says.

`python fake_entry.py JOB_FOLDER` runs RUN/act.py, if there is one, on every node.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

job = Path(sys.argv[1])
run = job.parent.parent
restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
seen = {
    "arguments": sys.argv[1:],
    "folder": str(Path.cwd()),
    "recipe": (job / "recipe.yaml").read_text(),
    "environment": dict(os.environ),
}
(job / f"seen-{restart}-{os.environ['SLURM_NODEID']}.json").write_text(json.dumps(seen))


def attempt(**files: object) -> None:
    """Write the logs of one attempt: attempt.json, and others by name."""
    count = len(list((run / "logs").glob("[0-9]*")))
    logs = run / "logs" / f"{count + 1:03d}"
    logs.mkdir(parents=True)
    record = {"attempt": count + 1, "job_id": os.environ["SLURM_JOB_ID"], "restart_count": restart}
    for name, value in {"attempt": record, **files}.items():
        (logs / f"{name}.json").write_text(json.dumps(value))


act = run.parent / "act.py"
if act.exists():
    exec(compile(act.read_text(), str(act), "exec"))
