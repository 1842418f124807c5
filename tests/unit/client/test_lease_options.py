"""The options of a lease, which every way to acquire one takes."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from gpumand.client import Client, InvalidArgs, LeaseOptions, SyncClient, lease, lease_sync
from gpumand.client.lease_options import DEFAULT_WAIT_SEC, lease_request

ALL: LeaseOptions = {
    "timeout_sec": 5.0,
    "priority": 7,
    "device": "0",
    "reason": "poster",
    "restore": True,
    "exclusive": True,
    "yield_lease": "38a640",
    "on_behalf": "alice@gpu2",
}


def test_each_option_becomes_an_option_of_the_call() -> None:
    request = lease_request("llm", "ttl", ALL, within=["a1"], ttl_sec=60.0, token="t1")

    assert (request.consumer, request.timeout_sec, request.yield_lease) == ("llm", 5.0, "38a640")
    assert request.options == {
        "lifetime": ("s", "ttl"),
        "timeout_usec": ("t", 5_000_000),
        "ttl_usec": ("t", 60_000_000),
        "priority": ("i", 7),
        "device": ("s", "0"),
        "reason": ("s", "poster"),
        "token": ("s", "t1"),
        "restore": ("b", True),
        "exclusive": ("b", True),
        "yield_lease": ("s", "38a640"),
        "on_behalf": ("s", "alice@gpu2"),
        "within": ("as", ["a1"]),
    }


def test_a_reservation_has_its_size_instead_of_a_consumer() -> None:
    assert lease_request("", "connection", {"vram_mib": 12288}, within=()).options["vram_mib"] == ("u", 12288)
    assert lease_request("", "connection", {"all": True}, within=()).options["all"] == ("b", True)


def test_options_that_are_not_given_are_left_to_the_daemon() -> None:
    request = lease_request("llm", "connection", {}, within=())

    assert request.timeout_sec == DEFAULT_WAIT_SEC
    assert request.options == {"lifetime": ("s", "connection"), "timeout_usec": ("t", 60_000_000)}


@pytest.mark.parametrize(
    ("consumer", "options"),
    [
        ("llm", {"vram_mib": 1}),
        ("", {}),
        ("", {"vram_mib": 1, "all": True}),
        ("llm", {"timeout_sec": -1}),
        ("llm", {"priority": 101}),
        ("llm", {"device": 0}),
        ("llm", {"yield_lease": 1}),
    ],
)
def test_options_out_of_range_are_refused(consumer: str, options: Any) -> None:
    with pytest.raises(InvalidArgs):
        lease_request(consumer, "connection", options, within=())


async def test_a_misspelt_option_is_an_error_before_anything_is_requested() -> None:
    misspelt: Any = {"timout_sec": 5.0}
    expected = "unexpected keyword argument 'timout_sec'"
    with pytest.raises(TypeError, match=expected):
        async with lease("llm", bus="unix:path=/nonexistent", **misspelt):
            pass
    with pytest.raises(TypeError, match=expected):
        async with Client("unix:path=/nonexistent").lease("llm", **misspelt):
            pass
    with pytest.raises(TypeError, match=expected):
        await Client("unix:path=/nonexistent").acquire("llm", **misspelt)


def test_a_misspelt_option_is_an_error_in_the_synchronous_client_too() -> None:
    misspelt: Any = {"timout_sec": 5.0}
    expected = "unexpected keyword argument 'timout_sec'"
    with pytest.raises(TypeError, match=expected), lease_sync("llm", bus="unix:path=/nonexistent", **misspelt):
        pass
    with pytest.raises(TypeError, match=expected), SyncClient("unix:path=/nonexistent").lease("llm", **misspelt):
        pass


def test_both_clients_take_the_same_arguments() -> None:
    for name in ("lease", "acquire"):
        ours, theirs = (inspect.signature(getattr(one, name)).parameters for one in (Client, SyncClient))
        assert list(ours.values()) == list(theirs.values())
