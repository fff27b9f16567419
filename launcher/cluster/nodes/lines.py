"""Connections between nodes: both ends know one key, and a silent one is lost after ten seconds.

Messages are JSON in the frames of `multiprocessing.connection`, never pickles:
https://docs.python.org/3/library/multiprocessing.html#connection-objects
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import socket
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from queue import Empty, SimpleQueue
from typing import Any

from launcher.cluster.node.supervise import Watch
from launcher.files.read import parse_json

BEAT_SECONDS = 1.0
SILENT_SECONDS = 10.0
STALL_SECONDS = 5
"""How long one read or write may take; a stranger that says nothing is dropped after that."""
LONGEST_MESSAGE_BYTES = 1 << 22
GREETING = b"shardlaunch 1 "
NONCE_BYTES = 32

Message = dict[str, Any]


class NotANodeError(Exception):
    """Whoever is at the other end isn't a node of this launch: no greeting, or another key."""


@dataclass(frozen=True)
class Lost:
    """A node that was there and is no more."""

    node_rank: int
    host: str
    address: str
    why: str
    seen: float
    """When it was last heard, in seconds since the epoch of this host's clock."""

    def __str__(self) -> str:
        return f"node {self.node_rank} ({self.host}, {self.address}) was lost: {self.why}"


class Line:
    """One connection to another node, after both ends have shown that they know the key."""

    def __init__(self, connection: Connection, address: str, own_address: str) -> None:
        self.connection = connection
        self.address = address
        """Of the other end."""
        self.own_address = own_address
        """Of this end, as the other one knows it."""
        self.node_rank = -1
        self.host = "?"
        self.heard_at = 0.0
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Send one message; if the other end is gone, that shows when it is next listened to."""
        with self._lock, contextlib.suppress(OSError):
            self.connection.send_bytes(json.dumps(message).encode())

    def receive(self) -> Message:
        """Return the next message.

        Raises:
            OSError: the connection is closed or broken (EOFError among them).
        """
        try:
            message = parse_json(self.connection.recv_bytes(LONGEST_MESSAGE_BYTES))
        except ValueError as error:
            raise OSError(f"no JSON: {error}") from None
        except EOFError:
            raise ConnectionResetError("its connection closed") from None
        if not isinstance(message, dict):
            raise OSError("no JSON object")
        return message


class Lines:
    """All connections of this node, served by one thread: it listens, beats, and notes losses."""

    def __init__(self) -> None:
        self._by_rank: dict[int, Line] = {}
        self._inbox: SimpleQueue[tuple[int, Message] | Lost] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._watch = Watch()
        self._thread = threading.Thread(target=self._serve, name="lines", daemon=True)
        self._thread.start()

    def add(self, line: Line) -> bool:
        """Serve one more connection; False if there is one with that node already."""
        with self._lock:
            if line.node_rank in self._by_rank:
                return False
            line.heard_at = self._watch.now
            self._by_rank[line.node_rank] = line
            return True

    @property
    def all(self) -> list[Line]:
        """The connections that there are, by node rank."""
        with self._lock:
            return [self._by_rank[rank] for rank in sorted(self._by_rank)]

    def tell_all(self, message: Message) -> None:
        """Send one message to every other node."""
        for line in self.all:
            line.send(message)

    def take(self) -> Iterable[tuple[int, Message] | Lost]:
        """Yield what came since the last time: messages with their senders' rank, and losses."""
        with contextlib.suppress(Empty):
            while True:
                yield self._inbox.get_nowait()

    def close(self) -> None:
        """Hang up everywhere."""
        self._closed.set()
        self._thread.join()
        for line in self.all:
            line.connection.close()

    def _serve(self) -> None:
        next_beat = 0.0
        while not self._closed.is_set():
            by_connection = {line.connection: line for line in self.all}
            ready = wait(list(by_connection), 0.1) if by_connection else []
            if not by_connection:
                time.sleep(0.02)
            self._watch.tick()
            for connection in ready:
                assert isinstance(connection, Connection)
                self._hear(by_connection[connection])
            if self._watch.now >= next_beat:
                next_beat = self._watch.now + BEAT_SECONDS
                self.tell_all({"kind": "beat"})
            for line in self.all:
                if self._watch.now - line.heard_at > SILENT_SECONDS:
                    self._lose(line, f"nothing was heard of it for {SILENT_SECONDS:.0f} s")

    def _hear(self, line: Line) -> None:
        try:
            message = line.receive()
        except OSError as error:
            closed = isinstance(error, ConnectionResetError)
            self._lose(
                line, "its connection closed" if closed else f"its connection broke ({error})"
            )
            return
        line.heard_at = self._watch.now
        if message.get("kind") != "beat":
            self._inbox.put((line.node_rank, message))

    def _lose(self, line: Line, why: str) -> None:
        with self._lock:
            self._by_rank.pop(line.node_rank, None)
        line.connection.close()
        silent = self._watch.now - line.heard_at
        self._inbox.put(Lost(line.node_rank, line.host, line.address, why, time.time() - silent))


def open_line(sock: socket.socket, key: bytes, *, is_head: bool) -> Line:
    """Make a connected socket a line, once each end has shown that it knows the key.

    Each end signs the other's fresh random number (HMAC-SHA256), so nothing that was overheard can
    be used again; its role is signed too, so nobody can be answered with his own words.

    Raises:
        NotANodeError: whoever is there doesn't know the key, or is something else.
        OSError: the connection broke.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", STALL_SECONDS, 0))
    address, own_address = (_plain(found[0]) for found in (sock.getpeername(), sock.getsockname()))
    sock.setblocking(True)
    connection = Connection(sock.detach())
    try:
        _shake_hands(connection, key, is_head=is_head)
    except BaseException:
        connection.close()
        raise
    return Line(connection, address, own_address)


def _shake_hands(connection: Connection, key: bytes, *, is_head: bool) -> None:
    own = secrets.token_bytes(NONCE_BYTES)
    connection.send_bytes(GREETING + own)
    try:
        greeting = connection.recv_bytes(len(GREETING) + NONCE_BYTES)
    except BlockingIOError:
        raise NotANodeError("says nothing") from None
    except EOFError:
        raise NotANodeError("hung up") from None
    except OSError as error:  # a frame that is none
        raise NotANodeError(f"speaks another language ({error})") from None
    if not greeting.startswith(GREETING):
        raise NotANodeError("is no node, or one of another version")
    theirs = greeting[len(GREETING) :]
    me, other = (b"head", b"node") if is_head else (b"node", b"head")
    connection.send_bytes(hmac.digest(key, me + theirs + own, "sha256"))
    try:
        answer = connection.recv_bytes(NONCE_BYTES)
    except (EOFError, OSError):
        raise NotANodeError("has another key") from None
    if not hmac.compare_digest(answer, hmac.digest(key, other + own + theirs, "sha256")):
        raise NotANodeError("has another key")


def _plain(address: str) -> str:
    """Return an IPv4 address that came through an IPv6 socket as what it is."""
    return address.removeprefix("::ffff:")
