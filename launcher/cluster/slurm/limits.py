"""What this Slurm has and allows: partitions with their limits, accounts, features of nodes."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

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
    """What the accounting lets this user ask for; empty where it lets everybody have all."""

    qos_of: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The qualities of service of each account."""
    checks_qos: bool = True

    @property
    def accounts(self) -> frozenset[str]:
        """Every account that the user's jobs may have."""
        return frozenset(self.qos_of)

    def qos(self, account: str | None) -> frozenset[str]:
        """Return what jobs of an account may have; of an unknown one: of any of the user's."""
        if not self.checks_qos:
            return frozenset()
        one = self.qos_of.get((account or "").lower())
        return frozenset().union(*self.qos_of.values()) if one is None else one


def partitions() -> dict[str, Partition]:
    """Return every partition that this user sees, by name.

    Raises:
        SlurmError: the controller doesn't answer.
    """
    text = ask("scontrol", "show", "partition", "--oneliner")
    found = (_partition(fields_of(line)) for line in text.splitlines() if "PartitionName=" in line)
    return {partition.name: partition for partition in found}


def associations() -> Associations:
    """Return accounts and qualities of service of this user, as far as the accounting tells.

    Where Slurm enforces no associations it takes any name for the default, so none is unknown.
    """
    config = dict(_settings(ask_or_empty("scontrol", "show", "config")))
    enforced = config.get("AccountingStorageEnforce", "").split(",")
    user = _user()
    if "associations" not in enforced or user is None:
        return Associations()
    # One accounting often serves several clusters, each with accounts of its own.
    text = ask_or_empty(
        "sacctmgr", "--noheader", "--parsable2", "show", "assoc", f"user={user}",
        f"cluster={config.get('ClusterName', '')}", "format=account,qos",
    )  # fmt: skip
    found: dict[str, frozenset[str]] = {}
    for account, bar, names in (line.partition("|") for line in text.splitlines()):
        if account and bar:  # an account may have several lines: one for each partition
            found[account] = found.get(account, frozenset()) | set(names.split(",")) - {""}
    return Associations(found, checks_qos="qos" in enforced)


def _settings(text: str) -> Iterator[tuple[str, str]]:
    for key, equals, value in (line.partition("=") for line in text.splitlines()):
        if equals:
            yield key.strip(), value.strip()


def _user() -> str | None:
    """Return whom Slurm will take this user for: not $LOGNAME, which anybody can set."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None


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
