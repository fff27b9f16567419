"""A SIGKILL for want of memory is told from any other by the kernel's own count."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cluster.node.oom import MemoryGroup, MemoryWatch, memory_group
from tests.support.cgroups import MemoryLimit

GREEDY = "import time; print(flush=True); input(); held = bytearray(1 << 29); time.sleep(600)"
V1_MOUNTS = """24 1 0:22 / /proc rw - proc proc rw
35 31 0:32 {root} {mount} rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / {mount}-cpu rw,relatime shared:1 - cgroup cgroup rw,cpu
"""
V2_MOUNTS = "41 31 0:38 {root} {mount} rw,relatime - cgroup2 cgroup2 rw\n"


def tree(folder: Path, mounts: str, root: str, cgroups: str) -> tuple[Path, Path]:
    """Return a /proc and a mounted cgroup file system as the kernel would show them."""
    proc, mount = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "7").mkdir()
    (proc / "self" / "mountinfo").write_text(mounts.format(root=root, mount=mount))
    (proc / "7" / "cgroup").write_text(cgroups)
    return proc, mount


@pytest.mark.parametrize("root", ["/", "/docker/abc"])
def test_version_1(tmp_path: Path, root: str) -> None:
    """Inside a container, the mount shows what is below the container's own cgroup."""
    path = f"{root.rstrip('/')}/job/rank"
    cgroups = f"5:cpu:/elsewhere\n4:memory:{path}\n0::/\n"
    proc, mount = tree(tmp_path, V1_MOUNTS, root, cgroups)
    group = mount / "job" / "rank"
    group.mkdir(parents=True)
    (group / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (group / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    found = memory_group(7, proc)
    assert found == MemoryGroup(group, 1)
    assert (found.kills(), found.limit_bytes()) == (3, None)


def test_version_2(tmp_path: Path) -> None:
    proc, mount = tree(tmp_path, V2_MOUNTS, "/", "0::/slurm/job_1/step_0\n")
    group = mount / "slurm" / "job_1" / "step_0"
    group.mkdir(parents=True)
    (group / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n")
    (group / "memory.max").write_text("1073741824\n")
    found = memory_group(7, proc)
    assert found == MemoryGroup(group, 2)
    assert (found.kills(), found.limit_bytes()) == (1, 1 << 30)


def test_no_cgroup_is_no_error(tmp_path: Path) -> None:
    proc, _ = tree(tmp_path, V2_MOUNTS, "/", "0::/gone\n")
    assert memory_group(7, proc) is None
    assert memory_group(8, proc) is None
    assert MemoryGroup(tmp_path / "removed", 1).kills() == 0


@pytest.mark.parametrize("limit_mib", [100, 4000])
def test_a_real_kill(limit_mib: int) -> None:
    """A process moved into a cgroup and ended by the kernel there, or by somebody else."""
    watch = MemoryWatch()
    with MemoryLimit() as limit, start_greedy() as process:
        assert process.stdin is not None
        watch.look(process.pid)
        limit.add(process.pid, limit_mib << 20)
        watch.look(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        if limit_mib > 1000:
            process.kill()
        assert process.wait(30) == -9
        killed = watch.killed(process.pid)
        if limit_mib > 1000:
            assert killed is None
        else:
            assert killed is not None
            assert killed.limit_bytes() == limit_mib << 20


def start_greedy() -> subprocess.Popen[bytes]:
    """Start a process that holds half a GiB once it is told to."""
    process = subprocess.Popen(
        [sys.executable, "-c", GREEDY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process
