"""Nodes meet over real sockets: who knows the key is let in, who doesn't come is named."""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.cluster.nodes import lines as lines_module
from launcher.cluster.nodes.lines import Lines, Lost, NotANodeError, open_line
from launcher.cluster.nodes.meeting import (
    MOST_SAID,
    MOST_STRANGERS,
    MeetingError,
    Reception,
    StopAsked,
    join,
    read_key,
    write_key,
)
from launcher.cluster.nodes.placement import Placement
from launcher.errors import InputError


def never() -> bool:
    return False


@pytest.fixture
def placement(tmp_path: Path) -> Placement:
    """Where node 1 of 3 finds a head; each test has ports of its own."""
    with socket.create_server(("", 0)) as probe:
        port = probe.getsockname()[1]
    key_file = tmp_path / "meeting.key"
    write_key(key_file)
    return Placement(3, 1, "127.0.0.1", min(port, 65_000), key_file, hosts=("n0", "n1", "n2"))


@pytest.fixture
def reception(placement: Placement) -> Iterator[Reception]:
    found = Reception(replace(placement, node_rank=0))
    yield found
    found.close()


def wait_for(lines: Lines, seconds: float = 5.0) -> tuple[int, dict[str, object]] | Lost:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for found in lines.take():
            return found
        time.sleep(0.01)
    raise AssertionError("nothing came")


def test_all_meet_and_talk_both_ways(reception: Reception, placement: Placement) -> None:
    members = [join(replace(placement, node_rank=rank), 5, never) for rank in (2, 1)]
    reception.wait_for_all(5, never)
    assert [line.node_rank for line in reception.lines.all] == [1, 2]
    assert {line.own_address for line in reception.lines.all} == {"127.0.0.1"}
    members[0].all[0].send({"kind": "answer", "values": [1]})
    assert wait_for(reception.lines) == (2, {"kind": "answer", "values": [1]})
    reception.lines.tell_all({"kind": "start"})
    for member in members:
        assert wait_for(member) == (0, {"kind": "start"})
        member.close()


def test_the_key_is_this_users_alone_and_new_each_time(tmp_path: Path) -> None:
    path = tmp_path / "meeting.key"
    write_key(path)
    first = read_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    write_key(path)
    assert read_key(path) != first
    assert len(first) == 64


def test_another_key_is_refused_and_both_sides_say_so(
    reception: Reception, placement: Placement, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.key"
    write_key(other)
    with pytest.raises(MeetingError, match="has another key"):
        join(replace(placement, key_file=other), 1, never)
    assert "refused 127.0.0.1: it has another key" in capsys.readouterr().err.replace("::ffff:", "")
    assert reception.missing == (1, 2)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"num_nodes": 4}, "started for 4 nodes, and this launch has 3"),
        ({"node_rank": 7}, "node rank 7 is not one of 1 to 2"),
        ({"node_rank": 0}, "node rank 0 is not one of 1 to 2"),
    ],
)
def test_a_node_that_does_not_fit_is_told(
    reception: Reception, placement: Placement, changed: dict[str, int], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        join(replace(placement, **changed), 5, never)  # type: ignore[arg-type]
    assert reception.missing == (1, 2)


def test_a_rank_comes_once(reception: Reception, placement: Placement) -> None:
    first = join(placement, 5, never)
    with pytest.raises(InputError, match="node rank 1 is there already"):
        join(placement, 5, never)
    assert reception.missing == (2,)
    first.close()


def test_who_is_late_is_waited_for_and_who_never_comes_is_named(
    reception: Reception, placement: Placement
) -> None:
    joined: list[Lines] = []
    late = threading.Timer(0.5, lambda: joined.append(join(placement, 5, never)))
    late.start()
    with pytest.raises(MeetingError) as error:
        reception.wait_for_all(1.5, never)
    late.join()
    assert error.value.late == (2,)
    assert "node 2 (n2) did not come within 2 s" in str(error.value)
    joined[0].close()


def test_a_stop_ends_the_waiting(reception: Reception, placement: Placement) -> None:
    with pytest.raises(StopAsked):
        reception.wait_for_all(5, lambda: True)
    with pytest.raises(StopAsked):
        join(placement, 5, lambda: True)


def test_a_taken_port_is_passed_over_by_both_sides(placement: Placement) -> None:
    """What listens at the first port never says a word; another launch would have another key."""
    with socket.create_server(("", placement.port)):
        reception = Reception(replace(placement, node_rank=0))
        assert reception.port in placement.ports[1:]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lines_module, "STALL_SECONDS", 1)
            member = join(placement, 10, never)
        assert reception.missing == (2,)
        member.close()
        reception.close()


def test_all_ports_taken_is_said(placement: Placement) -> None:
    servers = [socket.create_server(("", port)) for port in placement.ports]
    with pytest.raises(InputError, match="are all taken"):
        Reception(replace(placement, node_rank=0))
    for server in servers:
        server.close()


def test_strangers_keep_nobody_out(reception: Reception, placement: Placement) -> None:
    """A port scanner connects and says nothing, or speaks HTTP."""
    silent = socket.create_connection(("127.0.0.1", reception.port))
    chatty = socket.create_connection(("127.0.0.1", reception.port))
    chatty.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    started = time.monotonic()
    member = join(placement, 5, never)
    assert time.monotonic() - started < 1
    for found in (silent, chatty, member):
        found.close()


FLOOD = """
import socket, struct, sys
held = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]
for each in held[::3]:  # a reset in place of a goodbye
    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    each.close()
print("here", flush=True)
sys.stdin.read()
"""


@contextmanager
def flood(port: int, number: int) -> Iterator[None]:
    """Another process connects that often, says nothing, and stays."""
    process = subprocess.Popen(
        [sys.executable, "-c", FLOOD, str(port), str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    yield
    process.kill()
    process.communicate()


def test_a_flood_of_strangers_keeps_nobody_out(
    reception: Reception, placement: Placement, capsys: pytest.CaptureFixture[str]
) -> None:
    with flood(reception.port, 600):
        member = join(placement, 20, never)
        assert reception.missing == (2,)
        assert threading.active_count() < MOST_STRANGERS + 50
    member.close()
    reception.close()
    said = capsys.readouterr().err.splitlines()
    assert len(said) <= MOST_SAID + 1, said


def test_a_head_without_descriptors_goes_on_once_it_has_some(
    reception: Reception, placement: Placement
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = len(list(Path("/proc/self/fd").iterdir()))
    with flood(reception.port, 1):
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 12, hard))
        try:
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                while True:
                    address = ("127.0.0.1", reception.port)
                    stack.enter_context(socket.create_connection(address, 1))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    member = join(placement, 20, never)
    assert reception.missing == (2,)
    member.close()


def test_what_was_overheard_can_not_be_used_again(placement: Placement) -> None:
    """Each side's proof is over the other's fresh number and its own role: an echo is refused."""
    server = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        sock, _ = server.accept()
        with sock:
            while data := sock.recv(4096):
                sock.sendall(data)

    threading.Thread(target=echo, daemon=True).start()
    sock = socket.create_connection(server.getsockname())
    with pytest.raises(NotANodeError, match="another key"):
        open_line(sock, read_key(placement.key_file), is_head=False)
    server.close()


def test_a_closed_connection_is_a_lost_node(reception: Reception, placement: Placement) -> None:
    member = join(placement, 5, never)
    reception.lines.tell_all({"kind": "hello"})
    member.close()
    lost = wait_for(reception.lines)
    assert isinstance(lost, Lost)
    assert (lost.node_rank, lost.address) == (1, "127.0.0.1")
    assert "was lost: its connection closed" in str(lost)
    assert reception.lines.all == []


def test_a_silent_node_is_lost_too(
    reception: Reception, placement: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection stays open, as when a link goes down; a node that beats is not silent."""
    monkeypatch.setattr(lines_module, "SILENT_SECONDS", 2.5)
    well = join(replace(placement, node_rank=2), 5, never)
    sock = socket.create_connection(("127.0.0.1", reception.port))
    line = open_line(sock, read_key(placement.key_file), is_head=False)
    line.send({"kind": "hello", "host": "mute", "node_rank": 1, "num_nodes": 3})
    started = time.monotonic()
    lost = wait_for(reception.lines)
    assert isinstance(lost, Lost)
    assert 2 < time.monotonic() - started < 5
    assert lost.host == "mute"
    assert [line.node_rank for line in reception.lines.all] == [2]
    line.connection.close()
    well.close()
