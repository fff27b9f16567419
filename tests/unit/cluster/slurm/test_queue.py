"""What Slurm's commands print, taken from a real one (22.05)."""

from __future__ import annotations

import pytest

from launcher.cluster.slurm import queue
from launcher.cluster.slurm.queue import exit_code_of, find_jobs, is_row_of


@pytest.mark.parametrize(
    ("array_id", "job_id", "is_it"),
    [
        ("42", "42", True),
        ("42_3", "42_3", True),
        ("42_[1-5%1]", "42_4", True),
        ("42_[1-2,7]", "42_7", True),
        ("42_[1-2,7]", "42_3", False),
        ("42_[1-5]", "42", False),
        ("4_[1-5]", "42_1", False),
        ("42_[1,3,...]", "42_3", True),
    ],
)
def test_waiting_tasks_share_a_row(array_id: str, job_id: str, is_it: bool) -> None:
    assert is_row_of(array_id, job_id) is is_it


@pytest.mark.parametrize(
    ("text", "state", "code"),
    [
        ("3:0", "FAILED", 3),
        ("0:15", "CANCELLED", 143),
        ("768", "FAILED", 3),
        ("9", "FAILED", 137),
        ("0", "COMPLETED", 0),
        ("0:0", "COMPLETED", 0),
        ("0:0", "CANCELLED", None),  # what the accounting has of it, whatever it ended with
        ("0:0", "RUNNING", None),
        ("", "FAILED", None),
    ],
)
def test_exit_codes_of_all_three_commands(text: str, state: str, code: int | None) -> None:
    assert exit_code_of(text, state) == code


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("12|12|CANCELLED by 0|BeginTime|n1|2026-11-23T17:03:48|00:30:00|0:0", ""),
        ("6|6|CANCELLED by 0|JobHeldUser|None assigned|None|00:30:00|0:0", "JobHeldUser"),
        ("6|6|PENDING|Dependency|None assigned|Unknown|00:30:00|0:0", "Dependency"),
    ],
)
def test_why_a_job_waited_is_not_why_it_ended(
    monkeypatch: pytest.MonkeyPatch, row: str, reason: str
) -> None:
    """Lines as `sacct` prints them; the first job had been requeued."""
    monkeypatch.setattr(queue, "has_slurm", lambda: True)
    monkeypatch.setattr(queue, "ask_or_empty", lambda name, *_: row if name == "sacct" else "")
    (found,) = find_jobs([row.partition("|")[0]]).values()
    assert found.reason == reason


def test_without_slurm_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert not queue.has_slurm()
    assert find_jobs(["42"]) == {}


def test_what_is_no_number_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "has_slurm", lambda: True)
    assert find_jobs(["--help", "4;2", ""]) == {}
