"""From a recipe to a job that could be submitted: resolves and checks, and writes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launcher.cluster.node.agent import grace_seconds
from launcher.cluster.outcome import say
from launcher.cluster.slurm.chain import Chain, plan_chain
from launcher.cluster.slurm.commands import SlurmError, has_slurm
from launcher.cluster.slurm.limits import Associations, associations, features, partitions
from launcher.cluster.slurm.options import Cluster, Wanted, check_settings
from launcher.cluster.slurm.quoting import has_line_break
from launcher.cluster.slurm.script import JobPlan
from launcher.cluster.slurm.site import LoadedSite, load_site
from launcher.cluster.slurm.sweep import named, tasks_of
from launcher.errors import InputError, Problem
from launcher.recipe.check import KeyedRule
from launcher.recipe.consent import NO_CONSENT, Consent
from launcher.recipe.extends import find_recipe
from launcher.recipe.load import load_recipe
from launcher.recipe.resolve import ResolvedRun, resolve
from launcher.recipe.run_settings import run_folder
from launcher.run_dir import RunDir


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    recipe: Path
    overrides: Sequence[str] = ()
    cluster: Mapping[str, str | int | None] = field(default_factory=dict)
    """Keys of the recipe's `cluster` section that have options of their own."""
    sweeps: Sequence[str] = ()
    after: Sequence[str] = ()
    prepare_on: str | None = None
    site: Path | None = None
    consent: Consent = NO_CONSENT

    def all_overrides(self) -> list[str]:
        """Return the overrides with the options in front, since they stand for recipe keys."""
        given = {key: value for key, value in self.cluster.items() if value is not None}
        return [f"cluster.{key}={json.dumps(value)}" for key, value in given.items()] + [
            *self.overrides
        ]


@dataclass(frozen=True)
class Submission:
    """A checked request: runs, job and chain."""

    runs: tuple[ResolvedRun, ...]
    plan: JobPlan
    chain: Chain
    partitions: tuple[str, ...]
    """Names of the partitions that the job may run in; empty where Slurm was not asked."""
    finished: tuple[RunDir, ...] = ()
    """Runs of the sweep that have nothing left to do; they are left out."""


def plan_submission(
    request: Request, rules: Sequence[KeyedRule] = (), *, needs_slurm: bool = True
) -> Submission | RunDir:
    """Return what would be submitted; a run folder where the run is already finished.

    Slurm is asked once recipe and site file are right. Without `needs_slurm` a Slurm that doesn't
    answer is said, and nothing is checked against it.

    Raises:
        InputError: recipe, site file or what Slurm has don't fit; with every problem found.
        SlurmError: it is needed and doesn't answer.
    """
    runs, site = _read_files(request, rules)
    problems = [problem for run in runs for problem in _bad_paths(run)]
    finished = [run for run in runs if run_folder(run).summary.exists()]
    runs = [run for run in runs if run not in finished]
    if not runs:
        return _absolute(finished[0])
    wanted = Wanted(runs[0], site)
    cluster = _ask_slurm(must_answer=needs_slurm)
    chosen = cluster.chosen(wanted) if cluster else []
    if cluster is not None:
        problems += check_settings(wanted, cluster)
        problems += _bad_partition(request.prepare_on, cluster)
    lead = max(_grace_seconds(run) for run in runs)
    chain = plan_chain(wanted, chosen, lead)
    if isinstance(chain, Problem):
        problems.append(chain)
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    assert isinstance(chain, Chain)
    plan = JobPlan(
        name=_name(request, runs),
        wanted=wanted,
        jobs=tuple(_absolute(run).next_job() for run in runs),
        time=chain.limit,
        lead_seconds=lead,
        after=tuple(request.after),
    )
    names = tuple(partition.name for partition in chosen)
    return Submission(tuple(runs), plan, chain, names, tuple(_absolute(run) for run in finished))


def _read_files(
    request: Request, rules: Sequence[KeyedRule]
) -> tuple[list[ResolvedRun], LoadedSite]:
    """Return what recipe and site file say; the problems of both, and of the options, at once."""
    problems = [problem for after in request.after for problem in _bad_job_id(after)]
    runs: list[ResolvedRun] = []
    try:
        runs = _resolve_all(request, rules)
    except InputError as error:
        problems += error.problems
    try:
        site = load_site(request.site)
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(problems)
    return runs, site


def _resolve_all(request: Request, rules: Sequence[KeyedRule]) -> list[ResolvedRun]:
    """Return every run of the sweep; the problems of all of them at once."""
    overrides = request.all_overrides()
    tasks = tasks_of(request.sweeps)
    if len(tasks) == 1:
        return [resolve(request.recipe, overrides, consent=request.consent, rules=rules)]
    base = load_recipe(find_recipe(request.recipe), overrides).recipe.run.name
    runs: list[ResolvedRun] = []
    problems: dict[Problem, None] = {}
    for index, task in enumerate(tasks):
        own = [*overrides, *task.overrides, f"run.name={named(base, task, index)}"]
        try:
            runs.append(resolve(request.recipe, own, consent=request.consent, rules=rules))
        except InputError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise InputError(list(problems))
    return runs


def _name(request: Request, runs: Sequence[ResolvedRun]) -> str:
    if not request.sweeps:
        return runs[0].recipe.run.name
    return load_recipe(find_recipe(request.recipe), request.all_overrides()).recipe.run.name


def _absolute(run: ResolvedRun) -> RunDir:
    return RunDir(run_folder(run).root.absolute())


def _grace_seconds(run: ResolvedRun) -> int:
    asked = run.recipe.run.grace_seconds or 0
    return max(grace_seconds(run_folder(run)), int(asked))


def _ask_slurm(*, must_answer: bool) -> Cluster | None:
    """Return what Slurm has; None without a Slurm here: a script can still be printed."""
    if not has_slurm():
        return None
    try:
        found: Associations = associations()
        return Cluster(partitions(), found, features())
    except SlurmError as error:
        if must_answer:
            raise
        say(f"not checked against Slurm: {error}")
        return None


def _bad_job_id(job_id: str) -> list[Problem]:
    if re.fullmatch("[0-9]{1,18}(_[0-9]{1,18})?", job_id):
        return []
    return [Problem("--after", "", f"got {job_id!r}, need the number of a job.", "Example: 4242")]


def _bad_partition(name: str | None, cluster: Cluster) -> list[Problem]:
    if name is None or name in cluster.partitions:
        return []
    message = f'no partition "{name}" here; there are: {", ".join(cluster.partitions)}.'
    return [Problem("--prepare-on", "", message)]


def _bad_paths(run: ResolvedRun) -> list[Problem]:
    """Return a problem for each path that a job script can't hold.

    A backslash would switch off the pattern of the log's name.
    """
    place = run.origins.get("run.dir", str(run.source))
    paths = {"run.dir": str(_absolute(run).root), "": str(Path.cwd())}
    return [
        Problem(place, key, f"{path!r} has a backslash or a control character, which no job's can.")
        for key, path in paths.items()
        if has_line_break(path) or "\\" in path
    ]
