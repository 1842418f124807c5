"""Unique consumers on one host: claims before leases, and leases that end when the host can no longer be sure."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.domain.errors import Busy, NotNowError
from gpumand.fleet.store import StoreUnavailable
from gpumand.fleet.unique_rules import FENCED, UniqueRules
from tests.unit.fleet.fleet_rows import COLD, LOADING, RESIDENT, consumer, host, machine_id
from tests.unit.fleet.scripted_fleet import ScriptedLease
from tests.waiting import settled


class ScriptedClaims:
    """Claims that a test decides: ``holder`` is the host that has every consumer; "" = this one."""

    def __init__(self) -> None:
        self.holder = ""
        self.error: StoreUnavailable | None = None
        self.held: set[str] = set()
        self.released: list[str] = []

    def holds(self, name: str) -> bool:
        return name in self.held

    async def claim(self, name: str) -> str:
        if self.error is not None:
            raise self.error
        if not self.holder:
            self.held.add(name)
        return self.holder

    async def release(self, name: str) -> None:
        self.held.discard(name)
        self.released.append(name)


class Host:
    """The rules of a host with the unique consumer chat and the other one image."""

    def __init__(self) -> None:
        self.row = host(1, chat=consumer(COLD, unique=True), image=consumer(COLD))
        self.claims = ScriptedClaims()
        self.unloaded: list[str] = []
        self.can_unload = True
        self.rules = UniqueRules(lambda: self.row, lambda name: f"name of {name[-1]}", self._unload)
        self.rules.claims = self.claims

    async def _unload(self, name: str) -> bool:
        self.unloaded.append(name)
        return self.can_unload

    async def show(self, **more: object) -> None:
        """Publish another row of chat."""
        chat = replace(self.row.consumers["chat"], **more)  # type: ignore[arg-type]
        self.row = replace(self.row, consumers={**self.row.consumers, "chat": chat})
        self.rules.note_row(self.row)
        await settled()


async def test_unique_consumer_is_claimed_and_others_are_not() -> None:
    made = Host()
    await made.rules.require("chat")
    await made.rules.require("image")
    assert made.claims.held == {"chat"}


async def test_consumer_of_another_host_is_refused_with_its_name() -> None:
    made = Host()
    made.claims.holder = machine_id(2)
    with pytest.raises(Busy, match="name of 2 has it"):
        await made.rules.require("chat")


async def test_without_the_store_unique_consumers_are_not_served_and_others_are() -> None:
    made = Host()
    made.claims.error = StoreUnavailable("no quorum")
    with pytest.raises(NotNowError, match="no quorum"):
        await made.rules.require("chat")
    await made.rules.require("image")


async def test_fence_ends_the_leases_of_its_consumer_only() -> None:
    made = Host()
    await made.rules.require("chat")
    chat, image = ScriptedLease("gpu1"), ScriptedLease("gpu1")
    guarded, other = made.rules.guard("chat", chat), made.rules.guard("image", image)
    fencing = asyncio.ensure_future(made.rules.fenced(frozenset({"chat"})))

    assert await guarded.wait_ended() == FENCED
    assert made.unloaded == [], "it is unloaded after its leases"
    await guarded.release()
    await fencing
    assert chat.released
    assert made.unloaded == ["chat"]
    assert other is image


async def test_lease_that_was_granted_while_the_fence_fell_ends_at_once() -> None:
    made = Host()
    await made.rules.require("chat")
    made.claims.held.clear()
    guarded = made.rules.guard("chat", ScriptedLease("gpu1"))
    async with asyncio.timeout(30):
        assert await guarded.wait_ended() == FENCED


async def test_end_of_the_lease_itself_is_passed_on() -> None:
    made = Host()
    await made.rules.require("chat")
    lease = ScriptedLease("gpu1")
    guarded = made.rules.guard("chat", lease)
    lease.ended.set_result("revoked")
    assert await guarded.wait_ended() == "revoked"


async def test_consumer_that_was_unloaded_is_given_up_once_it_is_not_used() -> None:
    made = Host()
    await made.rules.require("chat")
    guarded = made.rules.guard("chat", ScriptedLease("gpu1"))
    await made.show(residency=COLD)
    assert not made.claims.released, "a lease on it waits for its load"
    await guarded.release()
    await made.show(residency=RESIDENT)
    assert not made.claims.released
    await made.show(residency=COLD, queue=1)
    assert not made.claims.released, "a request waits for it"
    await made.show(queue=0)
    assert made.claims.released == ["chat"]


async def test_consumer_that_was_loaded_without_the_fleet_is_claimed() -> None:
    made = Host()
    await made.show(residency=RESIDENT)
    assert made.claims.held == {"chat"}


async def test_consumer_that_was_loaded_here_although_another_host_has_it_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = Host()
    made.claims.holder = machine_id(2)
    await made.show(residency=RESIDENT)
    assert "chat is loaded here without the fleet" in caplog.text


async def test_claim_is_kept_while_the_request_for_it_is_on_its_way() -> None:
    made = Host()
    with made.rules.pending("chat"):
        await made.rules.require("chat")
        await made.show(residency=COLD)
        assert not made.claims.released
    await made.show(residency=COLD)
    assert made.claims.released == ["chat"]


async def test_request_that_comes_while_the_claim_is_given_up_keeps_it() -> None:
    made = Host()
    await made.rules.require("chat")
    made.rules.note_row(made.row)
    with made.rules.pending("chat"):
        await made.rules.require("chat")
        await settled()
        assert not made.claims.released
    await made.show(residency=COLD)
    assert made.claims.released == ["chat"]


async def test_fleet_with_static_peers_serves_no_unique_consumer() -> None:
    made = Host()
    made.rules.claims = None
    with pytest.raises(NotNowError, match="needs etcd"):
        await made.rules.require("chat")
    await made.rules.require("image")


async def test_consumer_whose_lease_was_granted_during_the_fence_is_unloaded() -> None:
    made = Host()
    await made.rules.require("chat")
    made.claims.held.clear()
    await made.rules.guard("chat", ScriptedLease("gpu1")).release()
    await until_unloaded(made)


async def test_consumer_that_was_loaded_during_the_fence_is_unloaded_and_the_load_refused() -> None:
    made = Host()
    await made.rules.require("chat")
    made.rules.check_loaded("chat")
    made.rules.check_loaded("image")
    made.claims.held.clear()
    with pytest.raises(NotNowError, match="cut off"):
        made.rules.check_loaded("chat")
    await until_unloaded(made)


@pytest.mark.parametrize(("leases", "unloaded"), [(0, ["chat"]), (1, [])])
async def test_consumer_that_another_host_has_is_unloaded_unless_it_is_used(leases: int, unloaded: list[str]) -> None:
    made = Host()
    made.claims.holder = machine_id(2)
    await made.show(residency=RESIDENT, leases=leases)
    assert made.unloaded == unloaded


async def test_loaded_consumer_stays_while_the_store_cannot_decide() -> None:
    made = Host()
    made.claims.error = StoreUnavailable("no quorum")
    await made.show(residency=RESIDENT)
    assert made.unloaded == []


async def until_unloaded(made: Host) -> None:
    async with asyncio.timeout(30):
        while made.unloaded != ["chat"]:  # noqa: ASYNC110 - the list of a test
            await asyncio.sleep(0.005)


# -- requests that reach gpumand without the fleet -------------------------------------------------------------------


async def test_promise_keeps_the_claim_until_the_row_shows_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Host()
    await made.rules.promise("chat")
    await made.show(residency=COLD)
    assert made.claims.held == {"chat"}
    await made.show(queue=1)
    monkeypatch.setattr("gpumand.fleet.unique_rules._now", lambda: float("inf"))
    await made.show(queue=2)
    assert made.claims.held == {"chat"}, "the request waits"
    await made.show(queue=0)
    assert made.claims.released == ["chat"]


async def test_promise_is_refused_while_another_host_has_the_consumer_or_nothing_is_known_of_it() -> None:
    made = Host()
    made.claims.holder = machine_id(2)
    with pytest.raises(Busy, match="name of 2 has it"):
        await made.rules.promise("chat")
    with pytest.raises(NotNowError, match="has not reported new"):
        await made.rules.promise("new")
    await made.rules.promise("image")


async def test_consumer_that_is_being_loaded_without_the_fleet_is_claimed_before_it_is_resident() -> None:
    made = Host()
    await made.show(residency=LOADING)
    assert made.claims.held == {"chat"}


async def test_load_that_another_host_forbids_is_unloaded_once_it_has_ended() -> None:
    made = Host()
    made.claims.holder = machine_id(2)
    await made.show(residency=LOADING)
    assert made.unloaded == []
    await made.show(residency=RESIDENT)
    assert made.unloaded == ["chat"]


async def test_fenced_consumer_that_a_client_of_gpumand_uses_is_unloaded_after_that_even_without_the_store() -> None:
    made = Host()
    await made.rules.require("chat")
    made.claims.held.clear()
    made.claims.error = StoreUnavailable("no quorum")
    await made.show(residency=RESIDENT, leases=1)
    await made.rules.fenced(frozenset({"chat"}))
    assert made.unloaded == ["chat"], "gpumand has refused this one, because of the lease"
    await made.show(leases=1, queue=0)
    assert made.unloaded == ["chat"]
    await made.show(leases=0)
    assert made.unloaded == ["chat", "chat"]
    await made.show(residency=COLD)
    await made.show(residency=RESIDENT)
    assert made.unloaded == ["chat", "chat"], "another load is not the fenced one"


# -- the end of the process ------------------------------------------------------------------------------------------


async def test_what_the_host_holds_is_unloaded_at_the_end() -> None:
    made = Host()
    assert await made.rules.end_all(), "it holds nothing"
    await made.rules.require("chat")
    await made.show(residency=RESIDENT)
    assert await made.rules.end_all()
    assert made.unloaded == ["chat"]


async def test_consumer_that_a_client_of_gpumand_uses_stays_loaded_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpumand.fleet.unique_rules.END_PAUSE_SEC", 0.0)
    made = Host()
    await made.rules.require("chat")
    made.can_unload = False
    assert not await made.rules.end_all()


async def test_fleet_with_static_peers_unloads_nothing_at_the_end() -> None:
    made = Host()
    made.rules.claims = None
    await made.show(residency=RESIDENT)
    assert await made.rules.end_all()
    assert made.unloaded == []


# -- while gpumand restarts, the row has no consumers ------------------------------------------------------------------


async def test_claims_and_guards_stay_while_gpumand_restarts() -> None:
    made = Host()
    made.row = replace(made.row, version="1")
    await made.show(residency=RESIDENT)
    made.row = replace(made.row, version="", consumers={})
    made.rules.note_row(made.row)
    assert made.rules.is_unique("chat")
    assert not made.rules.is_unique("image")
    assert made.rules.held == ["chat"]
    assert made.claims.released == []
    lease = made.rules.guard("chat", ScriptedLease("gpu1"))
    made.claims.held.clear()
    fencing = asyncio.ensure_future(made.rules.fenced(frozenset({"chat"})))
    async with asyncio.timeout(30):
        assert await lease.wait_ended() == FENCED
        await lease.release()
        await fencing


async def test_consumer_that_gpumand_no_longer_has_is_no_unique_one() -> None:
    made = Host()
    made.row = replace(made.row, version="1", consumers={})
    made.rules.note_row(made.row)
    assert not made.rules.is_unique("chat")


async def test_consumer_that_the_configuration_has_taken_from_the_host_is_given_up() -> None:
    made = Host()
    await made.rules.require("chat")
    await made.show(residency=RESIDENT)
    made.row = replace(made.row, consumers={"image": made.row.consumers["image"]})
    made.rules.note_row(made.row)
    await asyncio.sleep(0.01)
    assert made.claims.released == ["chat"]


async def test_consumer_that_is_not_unique_any_more_is_given_up_once_it_is_idle() -> None:
    made = Host()
    await made.rules.require("chat")
    await made.show(residency=RESIDENT, unique=False, leases=1)
    assert made.claims.released == []
    await made.show(leases=0)
    assert made.claims.released == ["chat"]


async def test_consumers_are_not_given_up_while_gpumand_gives_no_answer() -> None:
    made = Host()
    await made.rules.require("chat")
    await made.show(residency=RESIDENT)
    made.rules.note_row(replace(made.row, version="", consumers={}))
    await asyncio.sleep(0.01)
    assert made.claims.released == []
