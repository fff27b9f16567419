"""A real Slurm of several nodes on this host: its own munge key, controller and one slurmd a node.

Every daemon runs in the foreground as a child of the tests with files, ports and a config of its
own, so that nothing of a Slurm that may be installed here is touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from launcher.process import Process
from tests.support.programs import missing, need
from tests.support.slurm_accounting import Accounting

T = TypeVar("T")
PROGRAMS = (
    "slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "squeue", "sinfo", "setpriv",
)  # fmt: skip
NAME = "tests"
REMEMBER, FORGET = "MinJobAge=3600", "MinJobAge=2"
READY_SECONDS = 60.0
POLL_SECONDS = 0.2
"""Each look is a process of Slurm's."""
REVOKED_SECONDS = 2.0
END_STATES = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "TIMEOUT",
)  # fmt: skip


def why_no_slurm() -> str:
    """Return why no Slurm can be started here; empty where one can."""
    names = missing(PROGRAMS)
    if names:
        return f"not installed: {', '.join(names)} (slurm-wlm and munge on Debian)"
    return "" if os.geteuid() == 0 else "slurmd needs root"


class SlurmCluster:
    """`num_nodes` nodes n1, n2, ... that are idle once the `with` block is entered.

    Partitions: `main` (default; jobs of `high` requeue its jobs), `high`, `cpu` (the first node).
    """

    def __init__(
        self,
        num_nodes: int = 4,
        *,
        cpus: int = 8,
        gpus: int = 2,
        max_time: str = "2:00:00",
        default_time: str = "30:00",
        requeue_seconds: int = 60,
        kill_wait_seconds: int = 10,
        slurmd_timeout_seconds: int = 10,
        first_job_id: int = 1,
        has_accounting: bool = False,
    ) -> None:
        # A short folder of its own: the path of munge's socket may have 107 characters at most.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.nodes = tuple(f"n{number}" for number in range(1, num_nodes + 1))
        self.cpus = cpus
        self.gpus = gpus
        """GPUs that a node says it has: Slurm counts and hands them out, nothing is behind them."""
        self.max_time = max_time
        self.default_time = default_time
        self.requeue_seconds = requeue_seconds
        """How long a requeued job is held (see `start_now`): the lifetime of a credential.

        Slurm has 120 s; it has to be longer than a loaded machine takes to start a job.
        """
        self.kill_wait_seconds = kill_wait_seconds
        """From SIGTERM to SIGKILL: only what ignores the first is waited for so long.

        Slurm has 30 s; it has to be enough for ranks to save on a loaded machine.
        """
        self.slurmd_timeout_seconds = slurmd_timeout_seconds
        self.first_job_id = first_job_id
        """Clusters that run side by side differ in it: a job's ports come from its number."""
        self.has_accounting = has_accounting
        """Whether what users may have, and jobs that have ended, are kept in a database."""
        self._accounting: Accounting | None = None
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which Slurm's commands speak to this cluster."""
        own = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        return own | {"SLURM_CONF": str(self.conf)}

    def __enter__(self) -> SlurmCluster:
        try:
            self._write_files()
            self._start_munge()
            if self._accounting is not None:
                self._start_accounting(self._accounting)
            self._start("slurmctld", [need("slurmctld"), "-D", "-c", "-f", str(self.conf)])
            for node in self.nodes:
                self.start_node(node)
            self.wait_idle()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every job's processes and every daemon, and remove the files."""
        for node in self.nodes:
            self.kill_node(node)
        for name in ("slurmctld", "slurmdbd", "mariadbd", "munged"):
            if name in self._daemons:
                _end(self._daemons.pop(name))
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_node(self, node: str) -> None:
        """Start a node's slurmd (again)."""
        self._start(node, [need("slurmd"), "-D", "-N", node, "-f", str(self.conf)])

    def kill_node(self, node: str) -> None:
        """Let a node fail: kill its slurmd, its step daemons and all processes of its jobs."""
        daemon = self._daemons.pop(node, None)
        if daemon is not None:
            daemon.kill()
            daemon.wait()
        processes = [*self.step_daemons(node), *self.processes(node)]
        # A node fails at once: its srun must not see a step daemon end, and end the other nodes.
        # Children go first: the kernel wakes a stopped process group that it sees orphaned.
        processes.sort(key=lambda process: (process.started, process.pid), reverse=True)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in processes:
                process.send(number)

    def declare_down(self, node: str) -> None:
        """Let the controller know at once of a lost node; it takes 20 s or so to see it itself."""
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def processes(self, node: str) -> list[Process]:
        """Return the processes of jobs on one node."""
        conf = str(self.conf)
        return [
            process
            for process in _all_processes()
            if process.variable("SLURMD_NODENAME") == node
            and process.variable("SLURM_CONF") == conf
        ]

    def step_daemons(self, node: str) -> list[Process]:
        """Return the slurmstepd processes of one node: the parents of what runs there."""
        found = {}
        for process in self.processes(node):
            parent = _parent(process.pid)
            if parent is not None and _name(parent.pid) == "slurmstepd":
                found[parent.pid] = parent
        return list(found.values())

    def run(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's commands; return what it printed."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def sbatch(self, body: str, *options: str) -> str:
        """Submit a job that isn't the launcher's; return its number."""
        command = ("sbatch", "--parsable", *options, "--wrap", body)
        return self.run(*command).strip()

    def job(self, job_id: str) -> dict[str, str]:
        """Return the fields that `scontrol show job` has of a job; empty where it knows none."""
        text = self.run("scontrol", "show", "job", "-o", job_id, check=False)
        fields = (field.partition("=") for field in text.split())
        return {key: value for key, equals, value in fields if equals}

    def state(self, job_id: str) -> str:
        """Return a job's state, such as RUNNING."""
        return self.job(job_id).get("JobState", "")

    def wait_for_state(self, job_id: str, *states: str, seconds: float = 60.0) -> str:
        """Wait until a job is in one of these states; return which."""
        return self.wait_for(lambda: _one_of(self.state(job_id), states), seconds, job_id)

    def wait_for_end(self, job_id: str, seconds: float = 60.0) -> str:
        """Wait until a job has ended for good; return its state."""
        return self.wait_for_state(job_id, *END_STATES, seconds=seconds)

    def start_now(self, job_id: str, seconds: float = 60.0) -> None:
        """Shorten the time that a requeued job is held, once nothing is left of its last start."""
        self.wait_for_state(job_id, "PENDING", "RUNNING", seconds=seconds)
        self.wait_for(lambda: not self.last_words(job_id), seconds, "the last start to end")
        # A node refuses credentials made in the second in which it revoked the last start's ("Job
        # credential revoked", and the job fails without a word): the hold is there for that.
        time.sleep(REVOKED_SECONDS)
        self.run("scontrol", "update", f"JobId={job_id}", "StartTime=now", check=False)

    def cancel_all(self) -> None:
        """Cancel all jobs, and wait until the nodes are free again."""
        ids = self.run("squeue", "--noheader", "--format=%A").split()
        if ids:
            self.run("scancel", "--full", *ids, check=False)
            self.run("scancel", *ids, check=False)
        self.wait_idle()

    def forget_ended_jobs(self) -> None:
        """Let the controller forget all jobs that have ended, as it would after a time."""
        self._set(REMEMBER, FORGET)
        ended = ("squeue", "--all", "--noheader", "--states=all", "--format=%T")
        self.wait_for(lambda: not {*self.run(*ended).split()} & {*END_STATES}, 60, "forgetting")
        self._set(FORGET, REMEMBER)

    def _set(self, before: str, now: str) -> None:
        self.conf.write_text(self.conf.read_text().replace(before, now))
        self.run("scontrol", "reconfigure")

    def wait_idle(self, seconds: float = READY_SECONDS) -> None:
        """Wait until every node is idle."""
        idle = set(self.nodes)
        self.wait_for(lambda: self._idle() == idle, seconds, "nodes to be idle")

    def wait_for(self, look: Callable[[], T], seconds: float, what: str) -> T:
        """Wait until `look` returns something true; fail with the controller's log after a time."""
        deadline = time.monotonic() + seconds
        while not (found := look()):
            self._require_daemons()
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}:\n{self.log()}"
            time.sleep(POLL_SECONDS)
        return found

    def last_words(self, job_id: str) -> list[Process]:
        """Return the step daemons of a job, which live until the controller has their word."""
        title = f"[{job_id}.".encode()
        return [
            process
            for process in _all_processes()
            if _name(process.pid) == "slurmstepd"
            and title in _read(process.pid, "cmdline")
            and _folder(process.pid) == self.folder
        ]

    def _require_daemons(self) -> None:
        for name, daemon in self._daemons.items():
            printed = self.folder / f"{name}.out"
            assert daemon.poll() is None, f"{name} ended: {printed.read_text()}"

    def log(self) -> str:
        """Return the last lines of all logs, and the state of queue and nodes."""
        lines = []
        for log in sorted(self.folder.glob("*.log")):
            lines += [log.name, *log.read_text(errors="replace").splitlines()[-20:]]
        shown = self.run("squeue", "--all", check=False) + self.run("sinfo", "-N", check=False)
        return "\n".join([*lines, shown])

    def _idle(self) -> set[str]:
        text = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %t", check=False)
        rows = (line.split() for line in text.splitlines())
        return {row[0] for row in rows if len(row) == 2 and row[1] == "idle"}

    def _write_files(self) -> None:
        self.folder.chmod(0o755)  # the controller and its jobs may run as other users
        port, dbd_port, *node_ports = _free_ports(2 + len(self.nodes))
        if self.has_accounting:
            self._accounting = Accounting(self.folder, dbd_port)
            self._accounting.write_files()
        (self.folder / "state").mkdir()
        (self.folder / "plugstack.conf").write_text("")
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        devices = [self.folder / f"gpu{number}" for number in range(self.gpus)]
        for device in devices:
            device.touch()
        lines = [f"NodeName={','.join(self.nodes)} Name=gpu File={file}\n" for file in devices]
        (self.folder / "gres.conf").write_text("".join(lines))
        self.conf.write_text(self._configuration(port, node_ports))
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)

    def _configuration(self, port: int, node_ports: Sequence[int]) -> str:
        host = socket.gethostname()
        resources = f"CPUs={self.cpus} RealMemory=100000" + (
            f" Gres=gpu:{self.gpus}" if self.gpus else ""
        )
        lines = [
            f"ClusterName={NAME}",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={port}",
            f"FirstJobId={self.first_job_id}",
            "SlurmUser=root",
            "AuthType=auth/munge",
            f"AuthInfo=socket={self.folder}/munge.socket,cred_expire={self.requeue_seconds}",
            f"StateSaveLocation={self.folder}/state",
            f"SlurmdSpoolDir={self.folder}/spool-%n",
            f"SlurmctldPidFile={self.folder}/slurmctld.pid",
            f"SlurmdPidFile={self.folder}/slurmd-%n.pid",
            f"SlurmctldLogFile={self.folder}/slurmctld.log",
            f"SlurmdLogFile={self.folder}/slurmd-%n.log",
            f"PlugStackConfig={self.folder}/plugstack.conf",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "MpiDefault=none",
            "JobAcctGatherType=jobacct_gather/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU",
            "SlurmdParameters=config_overrides",
            "GresTypes=gpu",
            "PreemptType=preempt/partition_prio",
            "PreemptMode=REQUEUE",
            "SlurmctldParameters=preempt_send_user_signal",
            "SchedulerParameters=bf_interval=1,batch_sched_delay=0,sched_min_interval=0",
            "ReturnToService=2",
            f"SlurmdTimeout={self.slurmd_timeout_seconds}",
            f"KillWait={self.kill_wait_seconds}",
            REMEMBER,
        ]
        lines += self._accounting.slurm_conf if self._accounting is not None else []
        lines += [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={number} {resources}"
            f" Feature=any,{node}"
            for node, number in zip(self.nodes, node_ports, strict=True)
        ]
        times = f"MaxTime={self.max_time} DefaultTime={self.default_time} State=UP"
        lines += [
            f"PartitionName=main Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE {times}",
            f"PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF {times}",
            f"PartitionName=cpu Nodes={self.nodes[0]} PriorityTier=5 PreemptMode=OFF {times}",
        ]
        return "\n".join(lines) + "\n"

    def _start_munge(self) -> None:
        at = self.folder
        # --force: munged wants no folder on the way that others may write to, and /tmp is one.
        command = [
            need("munged"), "--foreground", "--force", f"--socket={at}/munge.socket",
            f"--key-file={at}/munge.key", f"--pid-file={at}/munged.pid",
            f"--seed-file={at}/munged.seed", f"--log-file={at}/munged.log", "--num-threads=2",
        ]  # fmt: skip
        self._start("munged", command)
        self.wait_for((at / "munge.socket").exists, READY_SECONDS, "munged")

    def _start_accounting(self, accounting: Accounting) -> None:
        """Start database and slurmdbd, and make the cluster known: its controller asks at once."""
        self._start("mariadbd", accounting.database)
        self.wait_for(accounting.socket.exists, READY_SECONDS, "the database")
        self._start("slurmdbd", accounting.daemon, accounting.environment)
        add = ("sacctmgr", "--immediate", "add", "cluster", NAME)
        self.wait_for(lambda: self.run(*add, check=False), READY_SECONDS, "slurmdbd")

    def _start(
        self, name: str, command: list[str], environment: Mapping[str, str] | None = None
    ) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                # Tests that are killed leave no daemon behind.
                ["setpriv", "--pdeathsig=KILL", *command],
                cwd=self.folder,  # step daemons inherit it, which tells them from another cluster's
                env=self.environment | dict(environment or {}),
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(5)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _one_of(state: str, states: Sequence[str]) -> str:
    return state if state in states else ""


def _free_ports(number: int) -> Iterator[int]:
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            probe = stack.enter_context(socket.socket())
            probe.bind(("", 0))
            yield int(probe.getsockname()[1])


def _all_processes() -> Iterator[Process]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (process := Process.find(int(entry.name))) is not None:
            yield process


def _parent(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return Process.find(int(text[text.rindex(")") + 2 :].split()[1]))


def _name(pid: int) -> str:
    return _read(pid, "comm").decode().strip()


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _folder(pid: int) -> Path:
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return Path()
