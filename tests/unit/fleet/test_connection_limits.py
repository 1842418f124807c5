"""The number of connections of one user on the fleet's Unix socket."""

from __future__ import annotations

from typing import cast

from gpumand.fleet.http_server import MAX_CONNECTIONS, MAX_OF_UID, Connection, HttpServer


class Opened:
    """A connection of a client."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True


def opened(server: HttpServer, peer: str, count: int) -> list[Opened]:
    found = [Opened(peer) for _ in range(count)]
    for one in found:
        server.admit(cast(Connection, one))
    return found


async def test_user_with_many_connections_cannot_close_the_socket_for_others() -> None:
    server = HttpServer({})
    of_user = opened(server, "uid 1000", MAX_OF_UID + 20)
    for one in of_user:
        if one.is_aborted:
            server.remove(cast(Connection, one))

    assert [one.is_aborted for one in of_user] == [False] * MAX_OF_UID + [True] * 20
    assert not opened(server, "uid 1001", 1)[0].is_aborted
    server.remove(cast(Connection, of_user[0]))
    assert not opened(server, "uid 1000", 1)[0].is_aborted


async def test_root_services_and_other_hosts_have_the_limit_of_all_connections_only() -> None:
    server = HttpServer({})
    server.unlimited_uids = frozenset({0, 990})
    found = [*opened(server, "uid 0", 150), *opened(server, "uid 990", 150), *opened(server, "10.0.0.2", 150)]

    assert not any(one.is_aborted for one in found)
    assert opened(server, "uid 0", MAX_CONNECTIONS - 449)[-1].is_aborted
