"""Which users of the host may lease through the fleet."""

from __future__ import annotations

import grp
import os
import pwd
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from gpumand.domain.errors import AccessDenied
from gpumand.fleet.local_access import Peer, check_local, peer_of

GROUP_ID, ALICE, GATEWAY = 990, 1001, 991
NAMES = {ALICE: "alice", GATEWAY: "_gpumand-gateway"}


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    def user(uid: int) -> Any:
        return SimpleNamespace(pw_name=NAMES[uid])

    monkeypatch.setattr(pwd, "getpwuid", user)
    monkeypatch.setattr(grp, "getgrnam", lambda name: SimpleNamespace(gr_gid=GROUP_ID))


@pytest.mark.parametrize(
    "peer",
    [
        Peer(0, frozenset()),
        Peer(os.getuid(), frozenset()),
        Peer(ALICE, frozenset({100, GROUP_ID})),
        Peer(GATEWAY, frozenset({GATEWAY})),
    ],
)
async def test_root_members_of_the_group_and_the_gateway_are_allowed(peer: Peer) -> None:
    await check_local(peer)


@pytest.mark.parametrize("peer", [Peer(ALICE, frozenset({100})), Peer(4242, frozenset({4242}))])
async def test_other_users_are_refused_with_what_would_allow_them(peer: Peer) -> None:
    with pytest.raises(AccessDenied, match=r"may not acquire consumers through the fleet. Add .* to the gpumand group"):
        await check_local(peer)


async def test_a_connection_without_a_known_user_is_refused() -> None:
    with pytest.raises(AccessDenied, match="unknown"):
        await check_local(None)


async def test_a_host_without_the_group_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise KeyError(name)

    monkeypatch.setattr(grp, "getgrnam", missing)
    with pytest.raises(AccessDenied):
        await check_local(Peer(ALICE, frozenset({GROUP_ID})))


def test_the_kernel_names_user_and_groups_of_a_unix_socket() -> None:
    one, other = socket.socketpair()
    with one, other:
        found = peer_of(one)
    assert found is not None
    assert found.uid == os.getuid()
    assert found.gids >= {os.getgid(), *os.getgroups()}


def test_a_tcp_socket_has_no_peer_on_this_host() -> None:
    with socket.socket() as one:
        assert peer_of(one) is None
