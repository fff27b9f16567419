"""What a job asks for, against what a cluster has; and how many jobs a run becomes."""

from __future__ import annotations

import os
import pwd

import pytest

from launcher.cluster.slurm import limits
from launcher.cluster.slurm.chain import Chain, plan_chain
from launcher.cluster.slurm.limits import Associations, Partition
from launcher.cluster.slurm.options import ASK, Cluster, check_settings
from launcher.errors import Problem
from tests.unit.cluster.slurm.conftest import MakeWanted

HOUR = 3600
SHORT = Partition("short", True, True, 4 * HOUR, HOUR, 4)
LONG = Partition("long", False, True, None, None, 64)
CLUSTER = Cluster(
    {"short": SHORT, "long": LONG},
    Associations({"lab": frozenset({"normal"}), "course": frozenset({"normal", "short"})}),
    frozenset({"a100", "ib", "v100"}),
)


def problems(make: MakeWanted, *overrides: str, site: str = "") -> list[str]:
    return [str(problem) for problem in check_settings(make(*overrides, site=site), CLUSTER)]


def test_the_recipe_comes_before_the_site(wanted: MakeWanted) -> None:
    both = wanted("cluster.partition=long", site="partition: short\naccount: lab\n")
    assert both.value("partition") == "long"
    assert both.value("account") == "lab"
    assert both.value("qos") is None
    assert CLUSTER.chosen(both) == [LONG]
    assert CLUSTER.chosen(wanted()) == [SHORT]
    assert list(check_settings(both, CLUSTER)) == []


def test_unknown_names_are_shown_with_those_that_exist(wanted: MakeWanted) -> None:
    found = problems(
        wanted,
        "cluster.partition=shrot",
        'cluster.constraint="[a100*2&h100]"',
        site="account: labs\nqos: high",
    )
    assert found[0] == (
        '--set cluster.partition=shrot: cluster.partition: no partition "shrot" here; there are:'
        " long, short. Did you mean short?"
    )
    assert found[1].endswith('no account "labs" here; there are: course, lab. Did you mean lab?')
    assert "site.yaml:1: account: " in found[1]
    assert found[2].endswith(f'no qos "high" here; there are: normal, short. {ASK}')
    assert 'no constraint "h100" here' in found[3]
    assert len(found) == 4


def test_qualities_are_those_of_the_account(wanted: MakeWanted) -> None:
    """Slurm doesn't tell the case of either."""
    assert problems(wanted, site="account: Course\nqos: SHORT") == []
    (found,) = problems(wanted, site="account: lab\nqos: short")
    assert 'no qos "short" here; there are: normal.' in found
    assert problems(wanted, site="qos: short") == []  # the default account isn't known


def test_more_nodes_than_a_job_may_have(wanted: MakeWanted) -> None:
    (found,) = problems(wanted, "cluster.num_nodes=8", "cluster.cpu_ranks=1")
    assert "8, but partition short gives a job 4 at most." in found


def test_no_default_partition(wanted: MakeWanted) -> None:
    cluster = Cluster({"long": LONG}, CLUSTER.associations, CLUSTER.features)
    (found,) = check_settings(wanted(), cluster)
    assert "is missing, and this Slurm has no default. It has: long." in str(found)


def test_cpus_follow_from_the_ranks(wanted: MakeWanted) -> None:
    gpus = "cluster.gpus_per_node=4"
    assert wanted(gpus).cpus_per_node == 16
    assert wanted(gpus, site="cpus_per_rank: 12").cpus_per_node == 48
    assert wanted("cluster.gpus_per_node=null", "cluster.cpu_ranks=2").cpus_per_node == 2


def chain(make: MakeWanted, time: str, partition: Partition | None, lead: int = 240) -> Chain:
    planned = plan_chain(make(f"cluster.time={time}"), [partition] if partition else [], lead)
    assert isinstance(planned, Chain), planned
    return planned


def test_a_job_that_fits_is_one_job(wanted: MakeWanted) -> None:
    planned = chain(wanted, '"2:30:00"', SHORT)
    assert (planned.limit, planned.num_jobs, planned.words) == ("2:30:00", 1, "02:30:00")
    assert chain(wanted, "9-00:00:00", LONG).num_jobs == 1
    assert chain(wanted, "9-00:00:00", None).limit == "9-00:00:00"


def test_a_longer_run_is_a_chain_that_counts_its_warnings(wanted: MakeWanted) -> None:
    planned = chain(wanted, '"8:00:00"', SHORT)
    assert (planned.limit, planned.num_jobs) == ("04:00:00", 3)  # 2 x 4 h less 5 minutes each
    assert "about 3 jobs of 04:00:00 one after another" in planned.words
    assert "until it is done" in chain(wanted, "UNLIMITED", SHORT).words


def test_without_a_time_it_is_the_partitions(wanted: MakeWanted) -> None:
    planned = chain(wanted, "null", SHORT)
    assert (planned.limit, planned.limit_seconds) == (None, HOUR)
    assert planned.words == "no cluster.time: the default of partition short, 01:00:00"
    assert chain(wanted, "null", LONG).words.endswith("no limit")


def test_a_job_shorter_than_its_warning_is_refused(wanted: MakeWanted) -> None:
    """240 s, and up to 60 s by which Slurm may be early."""
    planned = plan_chain(wanted('cluster.time="5"'), [SHORT], 240)
    assert isinstance(planned, Problem)
    assert "a job of 00:05:00 is not longer than the warning before its end: 240 s" in str(planned)
    assert chain(wanted, '"6"', SHORT).limit_seconds == 360


CONFIG = "ClusterName             = main\nAccountingStorageEnforce = {}\n"
ASSOCIATIONS = "lab|high,normal\nlab|short\ncourse|normal\n|\n"
QOS_OF = {"lab": frozenset({"high", "normal", "short"}), "course": frozenset({"normal"})}


@pytest.mark.parametrize(
    ("enforced", "expected"),
    [
        ("associations,limits,qos", Associations(QOS_OF)),
        ("associations", Associations(QOS_OF, checks_qos=False)),
        ("none", Associations()),
    ],
)
def test_accounts_are_those_of_the_user_here(
    monkeypatch: pytest.MonkeyPatch, enforced: str, expected: Associations
) -> None:
    """Lines as `sacctmgr show assoc` prints them: one for each account, or partition of one."""

    def answer(*command: str) -> str:
        if command[0] == "scontrol":
            return CONFIG.format(enforced)
        assert {f"user={pwd.getpwuid(os.getuid()).pw_name}", "cluster=main"} < set(command)
        return ASSOCIATIONS

    monkeypatch.setenv("LOGNAME", "somebody-else")
    monkeypatch.setattr(limits, "ask_or_empty", answer)
    assert limits.associations() == expected


def test_where_no_quality_is_enforced_none_is_unknown() -> None:
    assert Associations(QOS_OF).qos("course") == {"normal"}
    assert Associations(QOS_OF).qos(None) == {"high", "normal", "short"}
    assert Associations(QOS_OF, checks_qos=False).qos("course") == frozenset()


def test_a_user_without_a_name_has_no_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(limits, "ask_or_empty", lambda *_: CONFIG.format("associations"))
    monkeypatch.setattr(limits.pwd, "getpwuid", nobody)
    assert limits.associations() == Associations()
