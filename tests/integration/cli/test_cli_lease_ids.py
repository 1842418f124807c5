"""Leases on the command line: unique prefixes of their ids, ambiguous ones, and the commands that are offered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpumand.bus.connection import IncomingCall, Reply
from gpumand.domain.errors import (
    AccessDenied,
    Busy,
    InvalidArgs,
    NoSuchLease,
)
from gpumand.testing.bus import PrivateBus
from tests.integration.cli.ctl import Ctl, failure
from tests.integration.cli.manager import Answer, ScriptedManager, dictionary, failing
from tests.unit.cli import samples


class LeaseBook:
    """The leases of a scripted manager: Release and Renew accept only complete ids."""

    def __init__(self, manager: ScriptedManager, *leases: dict[str, Any]) -> None:
        self.manager = manager
        self.ids = [lease["id"] for lease in leases]
        manager.answers["GetStatus"] = dictionary(samples.status(queue=[], leases=list(leases)))
        manager.answers["Release"] = self._answer("")
        manager.answers["Renew"] = self._answer("t", samples.NOW)

    def _answer(self, signature: str, *body: Any) -> Answer:
        def answer(call: IncomingCall) -> Reply:
            if call.body[0] not in self.ids:
                raise NoSuchLease("no active lease has this id")
            return Reply(signature, body)

        return answer

    @property
    def ended(self) -> list[str]:
        """The leases that were released or renewed."""
        return [body[0] for _, body in self.manager.calls if body[0] in self.ids]


A, B, OTHER = "38a640ffce010203", "38a640aa00010203", "77bb00ffce010203"


@pytest.mark.parametrize("prefix", ["77bb", "77BB00", OTHER])
async def test_unique_prefix_of_a_lease_id_is_accepted(ctl: Ctl, manager: ScriptedManager, prefix: str) -> None:
    book = LeaseBook(manager, samples.lease(id=A), samples.lease(id=OTHER))
    released, renewed = await ctl("release", prefix, "--json"), await ctl("renew", prefix, "--ttl", "1min", "--json")
    assert (released.code, json.loads(released.out)) == (0, {"lease": OTHER})
    assert (renewed.code, json.loads(renewed.out)) == (0, {"lease": OTHER, "expires_usec": samples.NOW})
    assert book.ended == [OTHER, OTHER]
    assert manager.calls[-1] == ("Renew", [OTHER, 60_000_000])


async def test_ambiguous_prefix_lists_the_leases_that_it_matches(ctl: Ctl, manager: ScriptedManager) -> None:
    leases = [samples.lease(id=A, owner_uid=0), samples.lease(id=B, owner_uid=0), samples.lease(id=OTHER)]
    book = LeaseBook(manager, *leases)
    result = await ctl("renew", "38a6", "--ttl", "90s")
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines() == [
        "gpumanctl: '38a6' is the beginning of 2 lease ids. Choose one:",
        "  38a640f: user root, render.service, 'poster', ends now",
        "    gpumanctl renew 38a640f --ttl 90",
        "  38a640a: user root, render.service, 'poster', ends now",
        "    gpumanctl renew 38a640a --ttl 90",
    ]
    assert book.ended == []


async def test_release_of_a_consumer_offers_its_leases_and_releases_none(ctl: Ctl, manager: ScriptedManager) -> None:
    evil = samples.lease(id=B, owner_uid=4294967200, owner="", reason="\x1b[2J", lifetime="connection", expires_usec=0)
    leases = [samples.lease(id=A, owner_uid=0, lifetime="unit", expires_usec=0), evil]
    book = LeaseBook(manager, *leases, samples.lease(id=OTHER, consumer="llm"))
    result = await ctl("release", "comfyui", "--json")
    assert (result.code, result.out) == (4, "")
    assert result.err.splitlines() == [
        "gpumanctl: 'comfyui' is a consumer, not a lease. It has 2 active leases:",
        "  38a640f: user root, render.service, 'poster', ends with its unit",
        "    gpumanctl release 38a640f",
        "  38a640a: uid 4294967200, '\N{REPLACEMENT CHARACTER}[2J', ends with its owner",
        "    gpumanctl release 38a640a",
    ]
    one = await ctl("release", "llm")
    assert one.err.splitlines()[0].endswith("It has 1 active lease:")
    none = await ctl("release", "mvoice")
    assert (none.code, none.err) == (
        4,
        "gpumanctl: 'mvoice' is a consumer, not a lease, and it has no active lease\n",
    )
    assert book.ended == []


async def test_offered_command_names_the_bus_that_the_option_selects(bus: PrivateBus, manager: ScriptedManager) -> None:
    LeaseBook(manager, samples.lease(id=A))
    result = await Ctl("")("--bus-address", bus.address, "release", "comfyui")
    assert f"    gpumanctl --bus-address {bus.address} release 38a640" in result.err.splitlines()


@pytest.mark.parametrize(
    ("lease", "text"),
    [
        ("38a", "'38a' is too short for a lease id: give at least 4 characters of it; list the active leases with"),
        ("99999", "no active lease has this id; list the active leases with: gpumanctl status"),
        ("xyz", "no active lease has this id; list the active leases with: gpumanctl status"),
    ],
)
async def test_unknown_lease_is_one_line(ctl: Ctl, manager: ScriptedManager, lease: str, text: str) -> None:
    LeaseBook(manager, samples.lease(id=A))
    code, line = await failure(ctl, "release", lease)
    assert code == 4
    assert text in line


async def test_messages_name_the_options_of_the_command_line(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["Evict"] = failing(Busy("mvoice is leased. Use the option 'force' to revoke its leases."))
    manager.answers["Acquire"] = failing(
        InvalidArgs("option 'ttl_usec' must be greater than 0 and at most 86400000000")
    )
    assert (await failure(ctl, "evict", "mvoice"))[1].endswith("mvoice is leased. Use --force to revoke its leases.")
    assert (await failure(ctl, "acquire", "mvoice"))[1].endswith("--ttl must be greater than 0 and at most 1 d")


async def test_refusal_of_the_daemon_is_shown_without_a_second_advice(ctl: Ctl, manager: ScriptedManager) -> None:
    message = "Permission denied: user alice may not evict mvoice. Use sudo: sudo gpumanctl evict mvoice"
    manager.answers["Evict"] = failing(AccessDenied(message))
    assert await failure(ctl, "evict", "mvoice") == (1, f"gpumanctl: {message}")
