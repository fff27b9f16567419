"""The doctor tells what is there; what is missing fails, what might hurt is said with a cure."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from launcher.cluster.doctor import hardware as hardware_module
from launcher.cluster.doctor.check import Check
from launcher.cluster.doctor.hardware import hardware
from launcher.cluster.doctor.report import exit_code, lines
from launcher.cluster.doctor.slurm import slurm
from launcher.cluster.doctor.software import software


def named(checks: list[Check], name: str) -> Check:
    (found,) = [check for check in checks if check.name == name]
    return found


def test_packages_are_named_with_their_versions() -> None:
    found = named(software(has_gpus=False, environ={}), "packages")
    assert found.verdict == "ok"
    for package in ("torch", "deepspeed", "ruamel-yaml"):
        assert f"{package} {version(package)}" in found.found
    assert "pytest" not in found.found


@pytest.mark.parametrize(("has_gpus", "verdict"), [(False, "missing"), (True, "warning")])
def test_a_missing_compiler_matters_to_cpu_runs(has_gpus: bool, verdict: str) -> None:
    found = named(software(has_gpus=has_gpus, environ={"CXX": "no-such-c++"}), "no-such-c++")
    assert found.verdict == verdict
    assert found.cure
    assert exit_code([found]) == (0 if has_gpus else 1)
    assert lines([found])[-1].endswith("ready, 1 warning" if has_gpus else "not ready, 1 missing")


def test_of_a_key_it_says_only_that_it_is_there() -> None:
    canary = "canary-0123456789abcdef"
    checks = software(has_gpus=False, environ={"WANDB_API_KEY": canary})
    assert named(checks, "wandb key").found == "there"
    assert canary not in "".join(lines(checks))
    without = software(has_gpus=False, environ={"NETRC": "/nowhere"})
    assert named(without, "wandb key").found.startswith("none")


def test_this_machine() -> None:
    checks = hardware()
    for name in ("processors", "memory", "shared memory", "locked memory", "open files"):
        assert named(checks, name).found
    assert exit_code(checks) == 0


def test_a_small_or_missing_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware_module, "LEAST_SHARED_BYTES", 1 << 60)
    assert named(hardware(), "shared memory").verdict == "warning"
    monkeypatch.setattr(hardware_module, "SHARED", tmp_path / "nothing")
    assert named(hardware(), "shared memory").verdict == "missing"


def test_gpus_that_somebody_else_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver folder and an nvidia-smi that answers as the real one does."""
    script = tmp_path / "nvidia-smi"
    rows = ("NVIDIA H100, 81559, 3, 570.86", "NVIDIA H100, 81559, 40000, 570.86")
    script.write_text("#!/bin/sh\n" + "".join(f'echo "{row}"\n' for row in rows))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(hardware_module, "visible_gpus", lambda: 2)
    free, used = [check for check in hardware() if check.name == "GPU"]
    assert (free.verdict, used.verdict) == ("ok", "warning")
    assert free.found == "NVIDIA H100, 3 of 81559 MiB in use, driver 570.86"
    script.write_text("#!/bin/sh\nexit 9\n")
    assert named(hardware(), "GPUs").verdict == "warning"


def test_without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = slurm({})
    assert (found.verdict, "launcher run" in found.found) == ("ok", True)


def test_the_command_loads_no_torch() -> None:
    script = (
        "import sys; from launcher.cluster.doctor.report import examine; examine();"
        "print(sorted({'torch', 'transformers', 'deepspeed'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
