"""The doctor's facts about the programs that listen at the addresses of consumers. Blocking code."""

from __future__ import annotations

from collections.abc import Iterable

from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.socket_url import split_socket_url
from gpumand.host.listener_cgroups import listener_cgroups
from gpumand.host.tcp_table import listening_at, read_sockets


def read_listeners(consumers: Iterable[ConsumerSpec]) -> dict[str, tuple[str, ...]]:
    """The cgroup of each socket that listens at the url of a consumer with a unit; "" where it is unknown.

    Consumers in containers or cgroups of their own are left out: engines forward their ports.
    """
    asked = [one for one in consumers if one.unit and one.url and split_socket_url(one.url) is None]
    asked = [one for one in asked if not (one.container or one.cgroup or one.slice)]
    if not asked:
        return {}
    try:
        sockets, cgroups = read_sockets(), listener_cgroups()
    except OSError:
        return {}  # a kernel without sock_diag, or a sandbox: the listening programs are unknown
    return {one.name: tuple(cgroups.get(row.inode, "") for row in listening_at(sockets, one.url)) for one in asked}
