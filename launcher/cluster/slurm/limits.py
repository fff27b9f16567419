"""What this Slurm has and allows: partitions with their limits, accounts, features of nodes."""

from __future__ import annotations

import getpass
import re
from dataclasses import dataclass

from launcher.cluster.slurm.commands import ask, ask_or_empty, fields_of
from launcher.cluster.slurm.durations import seconds_of


@dataclass(frozen=True)
class Partition:
    """One partition."""

    name: str
    is_default: bool
    is_up: bool
    max_seconds: int | None
    """The longest job; None: no limit."""
    default_seconds: int | None
    """The limit of a job that asks for none; None: the longest."""
    max_nodes: int
    """Nodes that one job can have."""

    @property
    def usual_seconds(self) -> int | None:
        """The limit of a job that asks for none."""
        return self.max_seconds if self.default_seconds is None else self.default_seconds


@dataclass(frozen=True)
class Associations:
    """What the accounting lets this user ask for; empty where there is no accounting."""

    accounts: frozenset[str]
    qos: frozenset[str]


def partitions() -> dict[str, Partition]:
    """Return every partition that this user sees, by name.

    Raises:
        SlurmError: the controller doesn't answer.
    """
    text = ask("scontrol", "show", "partition", "--oneliner")
    found = (_partition(fields_of(line)) for line in text.splitlines() if "PartitionName=" in line)
    return {partition.name: partition for partition in found}


def associations() -> Associations:
    """Return accounts and qualities of service of this user, as far as the accounting tells."""
    text = ask_or_empty(
        "sacctmgr", "--noheader", "--parsable2", "show", "assoc",
        f"user={getpass.getuser()}", "format=account,qos",
    )  # fmt: skip
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 1]
    return Associations(
        frozenset(account for account, _ in rows if account),
        frozenset(name for _, names in rows for name in names.split(",") if name),
    )


def features() -> frozenset[str]:
    """Return the features that nodes of this cluster have."""
    text = ask_or_empty("sinfo", "--noheader", "--format=%f")
    return frozenset(re.split(r"[\s,]+", text)) - {"", "(null)"}


def _partition(fields: dict[str, str]) -> Partition:
    most = [int(fields.get("TotalNodes", "0"))]
    most += [int(fields["MaxNodes"])] if fields.get("MaxNodes", "").isdigit() else []
    return Partition(
        name=fields["PartitionName"],
        is_default=fields.get("Default") == "YES",
        is_up=fields.get("State", "UP") == "UP",
        max_seconds=seconds_of(fields.get("MaxTime", "")),
        default_seconds=seconds_of(fields.get("DefaultTime", "")),
        max_nodes=min(most),
    )
