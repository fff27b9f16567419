"""The environment of torchrun and `accelerate launch` becomes one value."""

from __future__ import annotations

import os
import time
from pathlib import Path

from launcher.run_dir import LogDir
from launcher.world import World, has_wandb_key


def test_without_variables_a_world_of_one() -> None:
    world = World.from_environment({})
    assert (world.rank, world.world_size, world.num_nodes) == (0, 1, 1)
    assert world.is_main_process
    assert world.logs is None


def test_variables_of_the_elastic_agent() -> None:
    world = World.from_environment(
        {
            "RANK": "9",
            "LOCAL_RANK": "1",
            "WORLD_SIZE": "16",
            "LOCAL_WORLD_SIZE": "8",
            "LAUNCHER_LOG_DIR": "logs/003",
        }
    )
    assert world == World(9, 1, 16, 2, LogDir(Path("logs/003")))
    assert not world.is_main_process


def test_the_deadline_is_the_earlier_limit_on_the_monotonic_clock() -> None:
    assert World.from_environment({}).deadline is None
    assert World.from_environment({"LAUNCHER_DEADLINE": "12.5"}).deadline == 12.5
    slurm = {"SLURM_JOB_END_TIME": str(int(time.time()) + 3600)}
    deadline = World.from_environment(slurm).deadline
    assert deadline is not None
    assert abs(deadline - time.monotonic() - 3600) < 30
    both = slurm | {"LAUNCHER_DEADLINE": str(time.monotonic() + 60)}
    assert World.from_environment(both).deadline == float(both["LAUNCHER_DEADLINE"])
    assert World.from_environment({"SLURM_JOB_END_TIME": ""}).deadline is None


def test_the_agent_is_known() -> None:
    assert World.from_environment({}).agent_pid is None
    assert World.from_environment({"TORCHELASTIC_RUN_ID": "x"}).agent_pid == os.getppid()
    assert World.from_environment({"LAUNCHER_AGENT_PID": "4711"}).agent_pid == 4711


def test_wandb_key(tmp_path: Path) -> None:
    assert not has_wandb_key({"NETRC": str(tmp_path / "none")})
    assert has_wandb_key({"WANDB_API_KEY": "x", "NETRC": str(tmp_path / "none")})
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.wandb.ai login user password x\n")
    assert has_wandb_key({"NETRC": str(netrc)})
    netrc.write_text("machine example.org login user password x\n")
    assert not has_wandb_key({"NETRC": str(netrc)})
