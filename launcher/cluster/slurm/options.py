"""What a job asks of Slurm: the recipe first, then the site file, checked against what there is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launcher.cluster.slurm.limits import Associations, Partition
from launcher.cluster.slurm.site import LoadedSite
from launcher.errors import Problem
from launcher.recipe.resolve import ResolvedRun
from launcher.recipe.schema_problems import did_you_mean
from launcher.recipe.tree import DEFAULT

CPUS_PER_GPU_RANK = 4
"""A rank, its checkpoint writer and the threads that feed it; every node with GPUs has as many."""
SHARED = ("partition", "account", "qos", "constraint")
"""Settings that a recipe and a site file both have."""
OF_THE_USER = ("account", "qos")
"""Those that are given to each user, in names of which Slurm doesn't tell the case."""
ASK = "Name one of these; your cluster's administrators can give you others."


@dataclass(frozen=True)
class Setting:
    """A value with the key and the place that it was written at."""

    value: str
    key: str
    place: str


@dataclass(frozen=True)
class Wanted:
    """What recipe and site file ask for."""

    resolved: ResolvedRun
    site: LoadedSite

    def setting(self, name: str) -> Setting | None:
        """Return one of the shared settings; None where neither file has it."""
        key = f"cluster.{name}"
        of_recipe = getattr(self.resolved.recipe.cluster, name)
        if of_recipe is not None:
            return Setting(of_recipe, key, self.resolved.origins.get(key, DEFAULT))
        of_site = getattr(self.site.site, name)
        return None if of_site is None else Setting(of_site, name, self.site.place(name))

    def value(self, name: str) -> str | None:
        """Return the value of a shared setting."""
        setting = self.setting(name)
        return setting.value if setting else None

    @property
    def ranks_per_node(self) -> int:
        """Ranks of each node."""
        return self.resolved.world_size // self.resolved.recipe.cluster.num_nodes

    @property
    def cpus_per_node(self) -> int:
        """CPUs of each node."""
        default = CPUS_PER_GPU_RANK if self.resolved.recipe.cluster.gpus_per_node else 1
        return self.ranks_per_node * (self.site.site.cpus_per_rank or default)


@dataclass(frozen=True)
class Cluster:
    """What Slurm has, as far as it was asked."""

    partitions: dict[str, Partition]
    associations: Associations
    features: frozenset[str]

    def chosen(self, wanted: Wanted) -> list[Partition]:
        """Return the partitions that a job may run in: the named ones, else the default."""
        name = wanted.value("partition")
        if name is None:
            return [one for one in self.partitions.values() if one.is_default]
        names = name.split(",")
        return [self.partitions[one] for one in names if one in self.partitions]


def check_settings(wanted: Wanted, cluster: Cluster) -> Iterator[Problem]:
    """Yield a problem for each name that this cluster doesn't have, and for too many nodes."""
    known = {
        "partition": cluster.partitions.keys(),
        "account": cluster.associations.accounts,
        "qos": cluster.associations.qos(wanted.value("account")),
        "constraint": cluster.features,
    }
    for name in SHARED:
        setting = wanted.setting(name)
        # Without accounting there is no list: sbatch has the last word.
        if setting is not None and known[name]:
            yield from _unknown(name, setting, sorted(known[name]))
    if wanted.setting("partition") is None and not cluster.chosen(wanted):
        message = f"is missing, and this Slurm has no default. It has: {_list(cluster.partitions)}."
        yield Problem(str(wanted.resolved.source), "cluster.partition", message)
    yield from _too_many_nodes(wanted, cluster.chosen(wanted))


def _unknown(name: str, setting: Setting, known: Sequence[str]) -> Iterator[Problem]:
    pattern = r"[A-Za-z_][\w.:=-]*" if name == "constraint" else r"[^,]+"
    for word in re.findall(pattern, setting.value):
        if (word.lower() if name in OF_THE_USER else word) not in known:
            message = f'no {name} "{word}" here; there are: {_list(known)}.'
            cure = did_you_mean(word, known) or (ASK if name in OF_THE_USER else "")
            yield Problem(setting.place, setting.key, message, cure)


def _too_many_nodes(wanted: Wanted, chosen: Sequence[Partition]) -> Iterator[Problem]:
    num_nodes = wanted.resolved.recipe.cluster.num_nodes
    place = wanted.resolved.origins.get("cluster.num_nodes", DEFAULT)
    for partition in chosen:
        if not partition.is_up:
            yield Problem(place, "cluster.partition", f"{partition.name} takes no jobs now.")
        if num_nodes > partition.max_nodes:
            message = (
                f"{num_nodes}, but partition {partition.name} gives a job {partition.max_nodes}"
                " at most."
            )
            yield Problem(place, "cluster.num_nodes", message)


def _list(names: Sequence[str] | dict[str, Partition]) -> str:
    return ", ".join(names) or "none"
