"""Whether the packet filter of a unit lets other hosts in, as systemd.resource-control(5) describes it."""

from __future__ import annotations

import pytest

from gpumand.domain.ip_access import clients_to_allow, lets_only_this_host_in, networks_of

ANY = ("0.0.0.0/0", "::/0")
LOCALHOST = ("127.0.0.0/8", "::1/128")


@pytest.mark.parametrize("address", ["172.17.0.1", "192.168.1.5", "0.0.0.0", "::", "fd00::1", "203.0.113.7"])
def test_unit_of_the_package_lets_only_this_host_in(address: str) -> None:
    assert lets_only_this_host_in(address, LOCALHOST, ANY)
    assert lets_only_this_host_in(address, (), ANY)


@pytest.mark.parametrize("address", ["172.17.0.1", "0.0.0.0", "::"])
@pytest.mark.parametrize(
    ("allow", "deny"),
    [((*LOCALHOST, "172.16.0.0/12"), ANY), (ANY, ANY), (LOCALHOST, ()), ((), ()), (LOCALHOST, ("10.0.0.0/8",))],
    ids=["drop-in", "everything", "no deny list", "no lists", "another deny list"],
)
def test_unit_that_lets_some_host_in_is_left_to_the_administrator(
    address: str, allow: tuple[str, ...], deny: tuple[str, ...]
) -> None:
    assert not lets_only_this_host_in(address, allow, deny)


def test_network_of_the_other_family_does_not_help() -> None:
    assert lets_only_this_host_in("172.17.0.1", (*LOCALHOST, "fd00::/64"), ANY)
    assert lets_only_this_host_in("fd00::1", (*LOCALHOST, "172.16.0.0/12"), ANY)


@pytest.mark.parametrize(
    ("addresses", "networks"),
    [
        (("172.17.0.1",), "172.16.0.0/12"),
        (("192.168.7.5", "172.18.0.1", "172.17.0.1"), "192.168.7.0/24 172.16.0.0/12"),
        (("fd00::1",), "fd00::/64"),
        (("0.0.0.0",), "192.168.1.0/24"),
        (("8.8.8.8", "::"), "192.168.1.0/24"),
    ],
)
def test_example_has_the_networks_that_the_clients_are_probably_in(addresses: tuple[str, ...], networks: str) -> None:
    assert clients_to_allow(addresses) == networks


def test_networks_that_are_none_are_left_out() -> None:
    assert networks_of([[2, b"\x7f\0\0\0", 8], [2, b"\x7f\0\0\0", 99], [2, b"\1", 8], "x", [2]]) == ("127.0.0.0/8",)
    assert networks_of(5) == ()
