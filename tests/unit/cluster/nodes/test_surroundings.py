"""What ranks are told of the network: what the user has set stays."""

from __future__ import annotations

import pytest

from launcher.cluster.nodes.surroundings import interface_of, network_of


def test_the_interface_of_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.9") is None
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    assert network_of("127.0.0.1") == {"NCCL_SOCKET_IFNAME": "lo"}
