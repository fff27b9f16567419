"""How nodes find each other: the first one listens, the others knock until it lets them in."""

from __future__ import annotations

import contextlib
import errno
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from launcher import __version__
from launcher.cluster.nodes.lines import Line, Lines, Message, NotANodeError, open_line
from launcher.cluster.nodes.placement import Placement
from launcher.cluster.outcome import say
from launcher.errors import InputError, LauncherError, Problem
from launcher.files.read import read_bytes
from launcher.files.write import replace_text
from launcher.world import host_name

MEETING_SECONDS = 120.0
"""How long nodes wait for each other, where run.timeout_seconds isn't shorter."""
KNOCK_SECONDS = 0.2
ACCEPT_SECONDS = 1.0
"""How often late strangers are looked for while nobody comes."""
CONNECT_SECONDS = 3.0
HANDSHAKE_SECONDS = 5.0
"""What whoever connects gets to show that it knows the key; a node takes milliseconds."""
MOST_STRANGERS = 128
"""Connections that have not shown it yet; of more, the oldest are dropped."""
MOST_SAID = 5
"""Refusals that are printed; the others are counted."""
KEY_BYTES = 32


class MeetingError(LauncherError):
    """The nodes did not all meet; `late` are the ranks of those that never came."""

    def __init__(self, message: str, late: tuple[int, ...] = ()) -> None:
        self.late = late
        super().__init__(message)


class StopAsked(Exception):
    """A signal asked for a stop while the nodes were meeting."""


def write_key(path: Path) -> None:
    """Put a new key where only this user can read it."""
    replace_text(path, secrets.token_hex(KEY_BYTES))


def read_key(path: Path) -> bytes:
    """Return the key.

    Raises:
        OSError: there is none that can be read.
    """
    return read_bytes(path).strip()


class Strangers:
    """Connections that have not shown yet that they know the key: few, and none for long."""

    def __init__(self) -> None:
        self._since: dict[socket.socket, float] = {}
        self._lock = threading.Lock()

    def add(self, sock: socket.socket) -> socket.socket:
        """Watch a connection; return what `remove` wants once it is over."""
        handle = sock.dup()
        with self._lock:
            self._since[handle] = time.monotonic()
        self.drop_late()
        return handle

    def remove(self, handle: socket.socket) -> None:
        """Watch it no longer."""
        with self._lock:
            self._since.pop(handle, None)
        handle.close()

    def drop_late(self) -> None:
        """Hang up on those that have taken too long, and on the oldest of too many."""
        with self._lock:
            oldest = sorted(self._since, key=self._since.__getitem__)
            limit = time.monotonic() - HANDSHAKE_SECONDS
            late = {handle for handle in oldest if self._since[handle] < limit}
            for handle in late.union(oldest[: max(0, len(oldest) - MOST_STRANGERS)]):
                with contextlib.suppress(OSError):  # it may have hung up itself
                    handle.shutdown(socket.SHUT_RDWR)  # its thread sees that


class Reception:
    """The head's side: lets in each node that knows the key, in a thread, until it is closed.

    Nothing that a stranger does ends a thread or keeps a node out: strangers are few at a time and
    have seconds, and only `close` ends the listening.
    """

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.lines = Lines()
        self._strangers = Strangers()
        self._num_refused = 0
        self._is_closed = False
        self._server = _listen(placement)
        self._server.settimeout(ACCEPT_SECONDS)
        self._thread = threading.Thread(target=self._accept, name="reception", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.getsockname()[1])

    @property
    def missing(self) -> tuple[int, ...]:
        """Ranks of the nodes that have not come."""
        here = {line.node_rank for line in self.lines.all}
        return tuple(rank for rank in range(1, self.placement.num_nodes) if rank not in here)

    def wait_for_all(self, seconds: float, asked: Callable[[], bool]) -> None:
        """Return once every node has come.

        Raises:
            MeetingError: some didn't come in time; names them.
            StopAsked: a signal asked for a stop.
        """
        deadline = time.monotonic() + seconds
        while self.missing:
            if asked():
                raise StopAsked
            if time.monotonic() > deadline:
                late = self.missing
                names = ", ".join(self.placement.name_of(rank) for rank in late)
                raise MeetingError(
                    f"{names} did not come within {seconds:.0f} s to {host_name()}, port"
                    f" {self.port}. Look at what was printed there, and whether it can reach this"
                    " port.",
                    late,
                )
            time.sleep(0.02)

    def close(self) -> None:
        """Let nobody in any more, and hang up."""
        self._is_closed = True
        if self._num_refused > MOST_SAID:
            say(f"refused {self._num_refused} connections in all.")
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.lines.close()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                sock, address = self._server.accept()
            except OSError:  # nobody came, or no descriptor is left
                self._strangers.drop_late()
                time.sleep(KNOCK_SECONDS / 10)
                continue
            try:
                sock.setblocking(True)
                arguments = (sock, self._strangers.add(sock), address[0])
                # A stranger that says nothing keeps nobody else from coming in.
                threading.Thread(target=self._receive, args=arguments, daemon=True).start()
            except (OSError, RuntimeError):  # no descriptor, no thread is left
                sock.close()

    def _receive(self, sock: socket.socket, handle: socket.socket, where: str) -> None:
        try:
            line = open_line(sock, read_key(self.placement.key_file), is_head=True)
            hello = line.receive()
        except NotANodeError as error:
            self._say_refused(where, f"it {error}.")
            return
        except InputError as error:  # our own key can't be read any more
            self._say_refused(where, str(error))
            return
        except OSError:
            return
        finally:
            sock.close()
            self._strangers.remove(handle)
        refusal = self._admit(line, hello)
        if refusal:
            self._say_refused(line.address, refusal)
            with contextlib.suppress(OSError):  # it has gone already
                line.send({"kind": "refused", "why": refusal})
            line.connection.close()

    def _say_refused(self, where: str, why: str) -> None:
        self._num_refused += 1
        if self._num_refused <= MOST_SAID:
            say(f"refused {where}: {why}")

    def _admit(self, line: Line, hello: Message) -> str:
        rank, num_nodes = hello.get("node_rank"), hello.get("num_nodes")
        ours = self.placement.num_nodes
        if num_nodes != ours:
            return f"it was started for {num_nodes} nodes, and this launch has {ours}."
        if type(rank) is not int or not 0 < rank < ours:
            return f"its node rank {rank} is not one of 1 to {ours - 1}."
        line.node_rank, line.host = rank, str(hello.get("host"))
        if not self.lines.add(line):
            return f"node rank {rank} is there already."
        line.send({"kind": "welcome", "host": host_name(), "version": __version__})
        return ""


def join(placement: Placement, seconds: float, asked: Callable[[], bool]) -> Lines:
    """Knock at the head's ports in turn until it lets this node in; return the line to it.

    Raises:
        MeetingError: it did not within that time; says what was met instead.
        InputError: it did not want this node.
        StopAsked: a signal asked for a stop.
    """
    deadline = time.monotonic() + seconds
    met = "nobody listens there"
    while time.monotonic() < deadline:
        for port in placement.ports:
            if asked():
                raise StopAsked
            try:
                return _knock(placement, port)
            except NotANodeError as error:
                met = f"whoever listens at port {port} {error}"
            except FileNotFoundError:
                met = (
                    f"{placement.key_file} is not there: the head writes it, so either it was not"
                    " started or this node doesn't see the same run folder"
                )
            except ConnectionRefusedError:
                continue
            except OSError as error:
                met = f"port {port}: {error.strerror or error}"
        time.sleep(KNOCK_SECONDS)
    ports = placement.ports
    raise MeetingError(
        f"node {placement.node_rank} ({host_name()}) did not reach the head"
        f" {placement.head}, ports {ports[0]} to {ports[-1]}, within {seconds:.0f} s: {met}.",
        (0,),
    )


def _knock(placement: Placement, port: int) -> Lines:
    key = read_key(placement.key_file)
    sock = socket.create_connection((placement.head, port), CONNECT_SECONDS)
    line = open_line(sock, key, is_head=False)
    hello = {"node_rank": placement.node_rank, "num_nodes": placement.num_nodes}
    line.send({"kind": "hello", "host": host_name(), **hello})
    answer = line.receive()
    if answer.get("kind") != "welcome":
        raise InputError(Problem(placement.head, "", f"refused this node: {answer.get('why')}"))
    line.node_rank, line.host = 0, str(answer.get("host"))
    lines = Lines()
    lines.add(line)
    return lines


def _listen(placement: Placement) -> socket.socket:
    for port in placement.ports:
        try:
            return _server(port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    ports = placement.ports
    raise InputError(
        Problem(
            "--port",
            "",
            f"ports {ports[0]} to {ports[-1]} are all taken on {host_name()}.",
            "Give the first of some that are free, the same on all nodes.",
        )
    )


def _server(port: int) -> socket.socket:
    """Listen at all addresses: the head's own name often means only itself (127.0.1.1)."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
            )
    return socket.create_server(("", port), backlog=1024)
