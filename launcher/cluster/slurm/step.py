"""Runs in the batch script: starts the step, sees it to its end, and requeues the job or not.

`python -m launcher.cluster.slurm.step JOB_FOLDER srun ...`
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launcher.cluster.outcome import say
from launcher.cluster.slurm.after_step import after_step
from launcher.cluster.slurm.requeue import attempt_of
from launcher.files.read import read_record
from launcher.run_dir import JobDir
from launcher.streams import outlive_readers

POLL_SECONDS = 1.0
SRUN_SECONDS = 10.0
"""What srun gets to end, once the launch that it carries has; a restart within it takes less."""


class Step:
    """One start of one job: what srun carries."""

    def __init__(self, job: JobDir, job_id: str, restart_count: int) -> None:
        self._job = job
        self._job_id = job_id
        self._restart_count = restart_count

    def run(self, command: Sequence[str]) -> int:
        """Run srun to its end; return its exit code as a shell has it.

        srun waits for a node that is gone until Slurm has noticed, which is minutes (SlurmdTimeout,
        KillWait): once the launch has said how it ended, srun isn't needed any more.
        https://slurm.schedmd.com/slurm.conf.html#OPT_SlurmdTimeout
        """
        try:
            srun = subprocess.Popen(command)
        except OSError as error:
            say(f"{command[0]} can't be started: {error.strerror or error}.")
            return 127
        ended_at: float | None = None
        while True:
            try:
                code = srun.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                now = time.monotonic()
                ended_at = (ended_at or now) if self._has_ended() else None
                if ended_at is not None and now - ended_at > SRUN_SECONDS:
                    say("srun still waits for a node, and the launch is over: going on without it.")
                    srun.kill()
                continue
            return code if code >= 0 else 128 - code

    def finish(self, srun_code: int) -> int:
        """Requeue the job where that brings the run forward; return the exit code of the job."""
        return after_step(self._job, self._job_id, self._restart_count, srun_code)

    def _has_ended(self) -> bool:
        """Return whether the newest attempt of this start has said how it ended."""
        logs = attempt_of(self._job.run_dir.launches, self._job_id, self._restart_count)
        return logs is not None and read_record(logs.attempt).get("exit_code") is not None


def main() -> int:
    """Read the command line and the variables that Slurm gives a batch script."""
    job, command = JobDir(Path(sys.argv[1])), sys.argv[2:]
    # Slurm's warnings are for the ranks, which save and end by themselves. Handlers, since srun
    # would inherit that a signal is ignored.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)
    restart_count = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    step = Step(job, os.environ["SLURM_JOB_ID"], restart_count)
    code = step.run(command)
    # A job that is requeued is sent SIGTERM, this process and the scontrol that it runs: both go on
    # until the nodes to avoid are written.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return step.finish(code)


if __name__ == "__main__":
    outlive_readers()
    sys.exit(main())
