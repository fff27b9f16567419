"""Launches without the price of their imports: each process forks from one that has paid it.

A start of the real command spends some 12 CPU seconds on importing torch, transformers and
DeepSpeed five times over. Here one process imports the libraries once; a command is a fork of it,
and whatever that command starts (the agent, the ranks) is a fork again in place of `exec`. Parents
and children, sessions, ties, signals, exit codes, descriptors and `/proc/PID/environ` are as after
an `exec`; the launcher's own modules are imported anew by each process. Other programs are executed
as ever.

Not for tests whose subject is the start, and not for variables that libraries read when they are
imported.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from launcher.process import die_with_parent

WARM = (
    "launcher.cli",
    "launcher.train.prepare",
    "launcher.checkpoint.export",
    "launcher.cluster.node.tied",
    "accelerate.commands.launch",
    "launcher.train",
    "launcher.train.link_test",
    "tests.support.port_taken",
)
"""Modules that run in a fork; every other program is executed."""
LIBRARIES = (
    "accelerate.commands.launch",
    "deepspeed.launcher.runner",
    "launcher.train.run",
    "launcher.cli",
    "launcher.cluster.local",
    "launcher.cluster.nodes.run",
    "deepspeed.ops.adam",
    "torch.distributed.run",
    "torch.distributed.elastic.rendezvous.static_tcp_rendezvous",
    "rich._emoji_codes",
    "torch.utils.cpp_extension",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.ops.op_builder.all_ops",
    "transformers.models.align",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
)
"""Imported once. The launcher's own modules are then dropped, and imported anew in each fork."""
PADDING = "FORKSERVER_PADDING"
ENVIRONMENT_BYTES = 1 << 16
START_SECONDS = 120.0
CLONE_NEWNET = 0x40000000  # linux/sched.h
AT_START = ("PYTHON", "LD_")
"""Variables that act when an interpreter starts: a fork can't have others than the server."""


class ForkedProcess:
    """A command in a fork, as `subprocess.Popen` would show it.

    `namespace`: the network that it is in, as `ip netns` names it.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        namespace: str = "",
    ) -> None:
        self.args = list(command)
        self.returncode: int | None = None
        self._lock = threading.Lock()
        out, err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 - read at the end
        self._outputs = out, err
        self._end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._end.connect(_server())
        variables = dict(os.environ if environment is None else environment)
        where = [str(folder or Path.cwd()), namespace]
        request = json.dumps([self.args, variables, *where]).encode()
        with Path(os.devnull).open("rb") as nothing:
            files = array.array("i", [nothing.fileno(), out.fileno(), err.fileno()])
            self._end.sendmsg(
                [len(request).to_bytes(8, "little")],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)],
            )
        self._end.sendall(request)
        self.pid = int.from_bytes(self._receive(8), "little")

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._end.recv(size - len(data))
            assert part, "the fork server has gone"
            data += part
        return data

    def poll(self) -> int | None:
        """Return the exit code (or minus the signal), None while it runs."""
        with self._lock, suppress(TimeoutError):
            self._await(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of this one process."""
        with self._lock:
            try:
                self._await(timeout)
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
        assert self.returncode is not None
        return self.returncode

    def _await(self, seconds: float | None) -> None:
        if self.returncode is not None:
            return
        with selectors.DefaultSelector() as selector:
            selector.register(self._end, selectors.EVENT_READ)
            if not selector.select(seconds):
                raise TimeoutError
        status = int.from_bytes(self._receive(8), "little")
        self._end.close()
        self.returncode = os.waitstatus_to_exitcode(status)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; return standard output and standard error."""
        self.wait(timeout)
        texts = []
        for file in self._outputs:
            file.seek(0)
            texts.append(file.read().decode())
        return texts[0], texts[1]

    def printed(self) -> str:
        """Return what is on standard output so far."""
        descriptor = self._outputs[0].fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="ignore")

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


_started: dict[str, Any] = {}
_before = {name: value for name, value in os.environ.items() if name.startswith(AT_START)}


def can_fork(environment: Mapping[str, str]) -> bool:
    """Tell whether a fork can have these variables."""
    return {n: v for n, v in environment.items() if n.startswith(AT_START)} == _before


def _server() -> str:
    """Return where the server of this process listens; start it if there is none."""
    if not _started:
        folder = tempfile.TemporaryDirectory(prefix="forkserver-")
        path = str(Path(folder.name) / "socket")
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, path, str(os.getpid())],
            # Code of models is imported from a folder of this server's own.
            env={
                **os.environ,
                PADDING: "x" * ENVIRONMENT_BYTES,
                "HF_MODULES_CACHE": str(Path(folder.name) / "modules"),
            },
            cwd=Path(__file__).parents[2],
        )
        atexit.register(process.kill)
        deadline = time.monotonic() + START_SECONDS
        while not Path(path).exists():
            assert process.poll() is None, "the fork server did not start"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        _started.update(folder=folder, path=path, process=process)
    return str(_started["path"])


# The server's side.


class _Become(BaseException):
    """Ends what a process runs, which then runs another command, as `exec` does."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)


def serve(path: str, parent: int) -> None:
    """Import the libraries, then fork a process for each request and report its end."""
    die_with_parent(parent)
    for name in LIBRARIES:
        importlib.import_module(name)
    _forget_launcher()
    # Made once and cached: a regular expression for each of a thousand renamed tensors.
    importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("")
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, "a fork of a process with threads may hang"
    os.execv = _become  # type: ignore[assignment]
    subprocess._fork_exec = _fork_instead(subprocess._fork_exec)  # type: ignore[attr-defined]
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path + ".new")
    listener.listen(64)
    Path(path + ".new").rename(path)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    pid = _start(connection)
                    connection.sendall(pid.to_bytes(8, "little"))
                    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
                    continue
                pid, connection = key.data
                selector.unregister(key.fileobj)
                os.close(key.fd)
                _, status = os.waitpid(pid, 0)
                with suppress(OSError), connection:
                    connection.sendall(status.to_bytes(8, "little"))


def _start(connection: socket.socket) -> int:
    size = array.array("i", [0, 0, 0]).itemsize * 3
    head, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_LEN(size))
    files = array.array("i", ancillary[0][2])
    length, data = int.from_bytes(head, "little"), b""
    while len(data) < length:
        data += connection.recv(length - len(data))
    command, environment, folder, namespace = json.loads(data)
    server, pid = os.getpid(), os.fork()
    if not pid:
        die_with_parent(server)  # which dies with the tests
        if namespace:
            _enter(namespace)
        _as_new(command, environment, folder, tuple(files), keep=(), new_session=True)
    for file in files:
        os.close(file)
    return pid


def _enter(namespace: str) -> None:
    with Path("/run/netns", namespace).open() as file:
        assert ctypes.CDLL(None).setns(file.fileno(), CLONE_NEWNET) == 0, namespace


def _fork_instead(fork_exec: Any) -> Any:
    """Return what `subprocess.Popen` calls: a fork for commands of ours, else the real thing."""

    def fork(*arguments: Any) -> int:
        args, _, close_fds, keep, folder, variables, *pipes = arguments[:12]
        command = [os.fsdecode(part) for part in args]
        if _module(command) is None:
            pid: int = fork_exec(*arguments)
            return pid
        restore, new_session, group, gid, groups, uid, umask, preexec = arguments[14:22]
        assert close_fds, command
        assert restore, command
        assert (group, gid, groups, uid, umask, preexec) == (-1, None, None, None, -1, None)
        environment = dict(os.environ)
        if variables is not None:
            parts = (os.fsdecode(entry).partition("=") for entry in variables)
            environment = {name: value for name, _, value in parts}
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            files = (pipes[0], pipes[3], pipes[5])
            kept = [fd for fd in keep if fd != arguments[13]]  # not the pipe that exec would close
            _as_new(command, environment, folder, files, keep=kept, new_session=new_session)
        return pid

    return fork


def _become(_: str, command: Sequence[str]) -> NoReturn:
    if _module(command) is None:
        os.execve(command[0], command, os.environ)
    raise _Become(command)


def _module(command: Sequence[str]) -> tuple[str, list[str]] | None:
    """Return module and arguments of a command that is run in a fork."""
    words = list(command)
    if words[:1] != [sys.executable]:
        return None
    words = words[2:] if words[1:2] == ["-u"] else words[1:]
    if words[:1] != ["-m"] or words[1] not in WARM:
        return None
    return words[1], words[2:]


def _as_new(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Any,
    files: Sequence[int],
    *,
    keep: Sequence[int],
    new_session: bool,
) -> NoReturn:
    """Be in this fork what `exec` would have made of it, and never return."""
    code = 1
    try:
        # What is here may be collected by nobody: objects of the parent have threads behind them.
        gc.disable()
        gc.freeze()
        gc.enable()
        if new_session:
            os.setsid()
        if folder is not None:
            os.chdir(folder)
        _open_only(files, keep)
        _default_signals()
        while True:
            try:
                code = _run(command, environment)
                break
            except _Become as other:
                command, environment = other.command, dict(os.environ)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    found = _module(command)
    assert found is not None, command
    module, arguments = found
    for number, name in enumerate(("stdout", "stderr"), start=1):
        stream = io.TextIOWrapper(
            io.FileIO(number, "w", closefd=False) if "-u" in command[:2] else _buffered(number),
            encoding="utf-8",
            errors="strict" if number == 1 else "backslashreplace",
            line_buffering=number == 2,
            write_through="-u" in command[:2],
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = [module, *arguments]
    tempfile.tempdir = None  # $TMPDIR may be another
    _forget_launcher()
    _write_environment(environment)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            code = end.code or 0
        else:
            print(end.code, file=sys.stderr)
            code = 1
    except Exception:
        traceback.print_exc()
        code = 1
    else:
        code = 0
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    return code


def _buffered(number: int) -> io.BufferedWriter:
    return io.BufferedWriter(io.FileIO(number, "w", closefd=False))


def _forget_launcher() -> None:
    """Leave nothing that the launcher's modules hold: locks, threads, what they have read."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "launcher"]:
        del sys.modules[name]


def _open_only(files: Sequence[int], keep: Sequence[int]) -> None:
    """Put `files` in the place of standard input, output and error; close all but `keep`."""
    moved = [os.dup(fd) if fd >= 0 else -1 for fd in files]
    for number, fd in enumerate(moved):
        if fd >= 0:
            os.dup2(fd, number)
    kept = set(keep)
    for fd in sorted(int(path.name) for path in Path("/proc/self/fd").iterdir()):
        if fd > 2 and fd not in kept:
            with suppress(OSError):
                os.close(fd)


def _default_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if number in (signal.SIGKILL, signal.SIGSTOP) or handler == signal.SIG_IGN:
            continue
        with suppress(OSError, ValueError):
            is_interrupt = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python itself starts


def _write_environment(environment: Mapping[str, str]) -> None:
    """Make it this process's environment, and what /proc/PID/environ shows of it."""
    wanted = {name: value for name, value in environment.items() if name != PADDING}
    os.environ.clear()
    os.environ.update(wanted)
    start, end = (int(field) for field in _stat()[47:49])
    block = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in wanted.items())
    assert len(block) <= end - start, "the server's environment is too small"
    ctypes.memmove(start, block.ljust(end - start, b"\0"), end - start)


def _stat() -> list[str]:
    text = Path("/proc/self/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
