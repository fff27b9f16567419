"""What the ranks of a node are told of its network, where the user has not."""

from __future__ import annotations

import os

import psutil


def network_of(own_address: str) -> dict[str, str]:
    """Return variables that lead gloo and NCCL to the interface by which the nodes met.

    Left to themselves they take the first that looks right, which may be one (docker0, a
    management network) that other nodes don't reach:
    https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#nccl-socket-ifname
    """
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    interface = interface_of(own_address)
    if interface is None:
        return {}
    return {name: interface for name in names if name not in os.environ}


def interface_of(address: str) -> str | None:
    """Return the name of the interface that has an address; None if none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address.split("%")[0] == address for found in addresses):
            return name
    return None


OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""In a job everything has been fetched; ranks that ask the hub once each would be refused."""
