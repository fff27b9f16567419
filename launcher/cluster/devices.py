"""The GPUs of this machine, counted without loading torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

NVIDIA_DRIVER = Path("/proc/driver/nvidia/gpus")


def visible_gpus(environ: Mapping[str, str] = os.environ, driver: Path = NVIDIA_DRIVER) -> int:
    """Return how many NVIDIA GPUs a process started here would see."""
    present = len(list(driver.iterdir())) if driver.is_dir() else len(_device_files())
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return present
    return min(present, len([name for name in chosen.split(",") if name.strip() not in ("", "-1")]))


def _device_files() -> list[Path]:
    """In containers the driver's folder may be hidden while the device files are there."""
    return list(Path("/dev").glob("nvidia[0-9]*"))
