"""Two hosts on one machine, as far as the network goes: namespaces joined by a virtual cable.

https://man7.org/linux/man-pages/man8/ip-netns.8.html
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass


def why_not() -> str:
    """Return why this machine can't have them; empty if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    name = f"probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"network namespaces are not allowed here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


@dataclass(frozen=True)
class Host:
    """One end of the cable."""

    name: str
    address: str
    interface: str


class Cable:
    """Two hosts and the link between them; all of it is gone after the block."""

    def __init__(self) -> None:
        tag = str(os.getpid())
        self.left = Host(f"left-{tag}", "10.83.7.1", f"l{tag}")
        self.right = Host(f"right-{tag}", "10.83.7.2", f"r{tag}")

    def __enter__(self) -> Cable:
        for host in (self.left, self.right):
            _ip("netns", "add", host.name)
        pair = ["type", "veth", "peer", "name", self.right.interface]
        _ip("link", "add", self.left.interface, *pair)
        for host in (self.left, self.right):
            _ip("link", "set", host.interface, "netns", host.name)
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", host.interface)
            for interface in (host.interface, "lo"):
                _ip("-n", host.name, "link", "set", interface, "up")
        return self

    def unplug(self) -> None:
        """Take the link down."""
        _ip("-n", self.left.name, "link", "set", self.left.interface, "down")

    def __exit__(self, *_: object) -> None:
        for host in (self.left, self.right):
            _ip("netns", "del", host.name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
