"""Durations as Slurm writes them, read and written."""

from __future__ import annotations

import pytest

from launcher.cluster.slurm.durations import duration, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("1:30:00", 5400),
        ("2-12", 216000),
        ("2-12:30", 217800),
        ("2-12:30:05", 217805),
        ("UNLIMITED", None),
        ("infinite", None),
    ],
)
def test_reads_times_as_sbatch_does(text: str, seconds: int | None) -> None:
    assert seconds_of(text) == seconds


def test_no_time_is_an_error() -> None:
    with pytest.raises(ValueError, match="soon"):
        seconds_of("soon")


@pytest.mark.parametrize("seconds", [0, 59, 3600, 86399, 86400, 217805])
def test_what_is_written_is_read_back(seconds: int) -> None:
    assert seconds_of(duration(seconds)) == seconds
