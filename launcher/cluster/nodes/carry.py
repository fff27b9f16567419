"""One launch over several nodes, as each of them goes through it, the first and the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.cluster.launch import (
    Attempt,
    Carrier,
    Launch,
    carry,
    monotonic_deadline,
)
from launcher.cluster.local import prepare_here
from launcher.cluster.node.agent import write_accelerate_config
from launcher.cluster.node.share import Share
from launcher.cluster.node.signals import StopSignals
from launcher.cluster.nodes.facts import CACHE_FOLDER, RUN_FOLDER
from launcher.cluster.nodes.head import Head, new_inquiry
from launcher.cluster.nodes.lines import Lines
from launcher.cluster.nodes.meeting import (
    MEETING_SECONDS,
    MeetingError,
    Reception,
    StopAsked,
    join,
    write_key,
)
from launcher.cluster.nodes.member import Member, refuse
from launcher.cluster.nodes.placement import Placement
from launcher.cluster.nodes.surroundings import OFFLINE, network_of
from launcher.cluster.outcome import Cause, print_stop, print_summary, print_warnings, say
from launcher.cluster.report import Result
from launcher.errors import EXIT_STOPPED, InputError, LauncherError
from launcher.files.read import real
from launcher.files.write import ensure_folder
from launcher.lock import hold
from launcher.recipe.prepared import prepared_marker
from launcher.recipe.resolve import ResolvedRun
from launcher.recipe.run_settings import write_settings
from launcher.run_dir import RunDir
from launcher.world import host_name


@dataclass(frozen=True)
class Journey:
    """What one node brings to a launch."""

    resolved: ResolvedRun
    run_dir: RunDir
    placement: Placement
    carrier: Carrier
    prepares: bool
    """Whether the first node tokenises the data; else they have to be there."""

    @property
    def meeting_seconds(self) -> float:
        """How long the nodes wait for each other."""
        return min(MEETING_SECONDS, self.resolved.recipe.run.timeout_seconds)

    def launch(self, signals: StopSignals) -> Launch:
        """Return what stays the same over all attempts."""
        num_nodes = self.placement.num_nodes
        share = Share(self.resolved.world_size // num_nodes, num_nodes, self.placement.node_rank)
        deadline = monotonic_deadline(self.resolved.recipe.run.max_hours)
        return Launch(self.resolved, self.run_dir, share, signals, deadline, self.carrier)

    def environment(self, own_address: str | None) -> dict[str, str]:
        """Return what this node's ranks are told of its network and its disks."""
        found = network_of(own_address) if own_address else {}
        if self.placement.job_id is not None:
            found |= OFFLINE
        return found


def carry_nodes(
    resolved: ResolvedRun,
    run_dir: RunDir,
    placement: Placement,
    *,
    carrier: Carrier,
    prepares: bool,
) -> int:
    """Go through one launch as the node that `placement` says; return its exit code.

    It is the same on all nodes, unless one of them is lost.

    Raises:
        InputError: the run can't be carried so, or another launch holds its folder.
    """
    journey = Journey(resolved, run_dir, placement, carrier, prepares)
    if run_dir.summary.exists():
        print_summary(run_dir, already=True)
        return 0
    with StopSignals() as signals:
        if placement.node_rank:
            return _follow(journey, signals)
        with hold(run_dir.lock, carrier.command):
            return _lead(journey, signals)


def send_regrets(placement: Placement, error: InputError, seconds: float) -> int:
    """Tell the first node why this one can't take part; return the exit code."""
    say(str(error))
    with StopSignals() as signals:
        try:
            lines = join(placement, seconds, lambda: signals.asked is not None)
        except (MeetingError, StopAsked):
            return error.exit_code
        try:
            return refuse(placement, lines, error)
        finally:
            lines.close()


def _follow(journey: Journey, signals: StopSignals) -> int:
    placement = journey.placement
    try:
        lines = join(placement, journey.meeting_seconds, lambda: signals.asked is not None)
    except StopAsked:
        say(f"node {placement.node_rank} was stopped before it met the others.")
        return EXIT_STOPPED
    try:
        environment = journey.environment(lines.all[0].own_address)
        is_quiet = placement.job_id is not None  # all nodes of a job print into one file
        member = Member(journey.launch(signals), lines, environment, is_quiet=is_quiet)
        return member.follow()
    finally:
        lines.close()


def _lead(journey: Journey, signals: StopSignals) -> int:
    run_dir, placement = journey.run_dir, journey.placement
    run_dir.take_back_stop()
    print_warnings(journey.resolved)
    if placement.job_id is None:
        write_key(placement.key_file)
    launch = journey.launch(signals)
    attempt = launch.open_attempt(placement.hosts or (host_name(),))
    if placement.num_nodes == 1:
        lines = Lines()
        try:
            return _Lead(journey, launch, lines, attempt).carry()
        finally:
            lines.close()
    try:
        reception = Reception(placement)
    except InputError as error:
        # In a job: these ports may be free on another node.
        host = host_name()
        attempt.fail(
            Cause(
                str(error), error.exit_code, category="port", nodes=(host,), kind="Ports", host=host
            )
        )
        raise
    try:
        reception.wait_for_all(journey.meeting_seconds, lambda: signals.asked is not None)
        return _Lead(journey, launch, reception.lines, attempt).carry()
    except MeetingError as error:
        hosts = placement.hosts
        nodes = tuple(hosts[rank] for rank in error.late) if hosts else ()
        cause = Cause(str(error), category="late node", kind="Late node", nodes=nodes)
        say(cause.text)
        code = attempt.fail(cause)
        _Lead(journey, launch, reception.lines, attempt).end(code, cause.text)
        return code
    except StopAsked:
        code = _stopped(journey, attempt, signals)
        _Lead(journey, launch, reception.lines, attempt).end(code, "stopped before the start.")
        return code
    finally:
        reception.close()


def _stopped(journey: Journey, attempt: Attempt, signals: StopSignals) -> int:
    reason = signals.asked.name if signals.asked is not None else "a signal to another node"
    stopped = {"step": 0, "reason": reason}
    attempt.stop(stopped)
    return print_stop(journey.run_dir, stopped)


class _Lead:
    """What the first node does once all are there."""

    def __init__(self, journey: Journey, launch: Launch, lines: Lines, attempt: Attempt) -> None:
        self._journey = journey
        self._launch = launch
        self._attempt = attempt
        all_lines = lines.all
        own_address = all_lines[0].own_address if all_lines else None
        self._head = Head(launch, lines, journey.environment(own_address))

    def end(self, exit_code: int, text: str) -> None:
        """Let the others go."""
        self._head.end(exit_code, text)

    def carry(self) -> int:
        """Check all nodes, start them, and see them to the end; return the exit code for all."""
        self._attempt = self._attempt.on(self._head.hosts)
        try:
            code = self._check() or self._prepare()
            if not code:
                code = carry(self._launch, self._head, self._attempt)
        except StopAsked:
            code = _stopped(self._journey, self._attempt, self._launch.signals)
        except LauncherError as error:
            cause = Cause(str(error), error.exit_code, can_restart=False, category="input")
            self._attempt.fail(cause)
            self.end(error.exit_code, str(error))
            raise
        self.end(code, _told(self._launch.run_dir, self._head.last, code))
        return code

    def _asked(self) -> bool:
        return self._launch.signals.asked is not None

    def _check(self) -> int:
        """Return the exit code of a failed preflight; 0 where the ranks may start."""
        journey = self._journey
        folders = {RUN_FOLDER: str(real(journey.run_dir.root))}
        prepared = None
        if journey.prepares:
            cache = Path(journey.resolved.recipe.data.cache_dir)
            ensure_folder(cache)
            folders[CACHE_FOLDER] = str(real(cache))
        else:
            prepared = str(real(prepared_marker(journey.resolved)))
        found = self._head.preflight(new_inquiry(folders, prepared), self._asked)
        found.write(self._attempt.logs)
        found.print()
        if found.is_ok:
            return 0
        cause = found.cause(self._attempt.logs)
        say(cause.text)
        self._head.last = Result(cause=cause)
        return self._attempt.fail(cause)

    def _prepare(self) -> int:
        """Write what the ranks will read; return the exit code of tokenising where it failed."""
        journey = self._journey
        write_settings(journey.resolved, journey.run_dir)
        write_accelerate_config(
            journey.resolved, journey.run_dir, num_nodes=journey.placement.num_nodes
        )
        if not journey.prepares:
            return 0
        code = prepare_here(journey.resolved, journey.run_dir, self._launch.signals)
        if self._asked():
            raise StopAsked
        if code:
            cause = Cause("the data could not be prepared.", code, category="input")
            self._attempt.fail(cause)
            self._head.last = Result(cause=cause)
        return code


def _told(run_dir: RunDir, last: Result, code: int) -> str:
    """Return what the other nodes say of the end."""
    if last.cause is not None:
        return last.cause.text
    what = "is done" if code == 0 else "was stopped"
    return f"{run_dir.root.name} {what}; its first node says more."
