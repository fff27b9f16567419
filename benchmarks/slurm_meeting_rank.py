"""A rank of benchmarks/slurm_meeting.py: one barrier with all others, no model."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch.distributed as dist


def main() -> None:
    """Meet, and write down when all had met."""
    dist.init_process_group("gloo")
    dist.barrier()
    noted = Path(os.environ["MEETING_FOLDER"], f"time-barrier-{dist.get_rank()}")
    noted.write_text(repr(time.time()))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
