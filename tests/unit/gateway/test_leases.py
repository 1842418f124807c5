"""Leases follow the requests in flight: acquired once, renewed, released, and asked for again after a loss."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.client.errors import LoadFailed, NoAnswer, NoSuchLease
from gpumand.client.values import Grant
from gpumand.gateway.leases import LeaseKeeper, LeaseSettings
from tests.waiting import until


class FakeArbiter:
    """Grants when the test says so."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.waiting: list[asyncio.Future[Grant]] = []
        self.renewals: list[Exception] = []

    async def acquire(self, consumer: str, priority: int | None, reason: str) -> Grant:
        self.calls.append(f"acquire {consumer} {priority} {reason}")
        future: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            self.calls.append(f"withdraw {consumer}")
            raise

    def grant(self, lease: str = "l1") -> None:
        self.waiting.pop(0).set_result(Grant(lease, "llm", "0", "http://127.0.0.1:1", (), False, 0.0, None))

    async def release(self, lease: str) -> None:
        self.calls.append(f"release {lease}")

    async def renew(self, lease: str) -> None:
        self.calls.append(f"renew {lease}")
        if self.renewals:
            raise self.renewals.pop(0)


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


def keeper(arbiter: FakeArbiter, **settings: float) -> LeaseKeeper:
    return LeaseKeeper(arbiter, LeaseSettings(**{"linger_sec": 0.0} | settings))


async def test_requests_share_one_lease_which_ends_with_the_last_of_them() -> None:
    arbiter = FakeArbiter()
    leases = keeper(arbiter)
    tickets = [leases.join("llm", 0, f"request {number}") for number in range(3)]
    await settle()
    assert leases.waiting("llm") == 3
    arbiter.grant()
    await settle()

    assert [ticket.ready.result().id for ticket in tickets] == ["l1"] * 3
    assert leases.join("llm", 0, "later").ready.done()
    for ticket in tickets:
        ticket.leave()
        ticket.leave()
    await settle()
    assert arbiter.calls == ["acquire llm 0 request 0"]


async def test_requests_of_several_priorities_share_the_first_grant_and_the_others_are_withdrawn() -> None:
    arbiter = FakeArbiter()
    leases = keeper(arbiter)
    batch, chat = leases.join("llm", -20, "batch"), leases.join("llm", 10, "chat")
    await settle()
    arbiter.waiting.reverse()
    arbiter.grant()
    await settle()

    assert batch.ready.result().id == chat.ready.result().id == "l1"
    assert arbiter.calls == ["acquire llm -20 batch", "acquire llm 10 chat", "withdraw llm"]
    chat.leave()
    await settle()
    assert "release l1" not in arbiter.calls
    batch.leave()
    await settle()
    assert arbiter.calls[-1] == "release l1"
    assert leases.waiting("llm") == 0
    await leases.close()


async def test_failed_acquire_fails_all_who_joined_each_with_its_own_error() -> None:
    arbiter = FakeArbiter()
    leases = keeper(arbiter)
    tickets = [leases.join("llm", 0, "x") for _ in range(2)]
    await settle()
    arbiter.waiting.pop().set_exception(LoadFailed("no weights"))
    await settle()

    errors = [ticket.ready.exception() for ticket in tickets]
    assert all(isinstance(error, LoadFailed) and error.message == "no weights" for error in errors)
    assert errors[0] is not errors[1]
    leases.join("llm", 0, "again")
    await settle()
    assert len(arbiter.calls) == 2


async def test_last_waiter_that_leaves_withdraws_the_request() -> None:
    arbiter = FakeArbiter()
    leases = keeper(arbiter)
    first, second = leases.join("llm", 0, "x"), leases.join("llm", 0, "x")
    await settle()
    first.leave()
    await settle()
    assert "withdraw llm" not in arbiter.calls

    second.leave()
    await settle()

    assert arbiter.calls[-1] == "withdraw llm"


async def test_held_back_request_is_sent_after_the_release_of_the_wanted_lease() -> None:
    arbiter = FakeArbiter()
    leases = keeper(arbiter, turn_sec=0.0)
    first = leases.join("llm", 0, "first")
    await settle()
    arbiter.grant("l1")
    await settle()
    leases.lease_wanted("l1")
    second = leases.join("llm", 0, "second")
    await settle()
    assert arbiter.calls == ["acquire llm 0 first"]

    first.leave()
    await settle()

    assert arbiter.calls[1:] == ["release l1", "acquire llm 0 second"]
    arbiter.grant("l2")
    await settle()
    assert second.ready.result().id == "l2"


async def test_lease_may_be_wanted_before_its_grant_is_known() -> None:
    arbiter = FakeArbiter()
    leases = keeper(arbiter, turn_sec=0.0)
    leases.join("llm", 0, "first")
    await settle()
    leases.lease_wanted("l1")
    leases.lease_wanted("of another owner")
    arbiter.grant("l1")
    await settle()

    assert not leases.join("llm", 0, "second").ready.done()
    await settle()
    assert arbiter.calls == ["acquire llm 0 first"]


async def test_empty_queue_ends_the_demand() -> None:
    arbiter = FakeArbiter()
    leases = keeper(arbiter, turn_sec=0.0)
    leases.join("llm", 0, "first")
    await settle()
    arbiter.grant("l1")
    await settle()
    leases.set_waiting(3)
    leases.queue_emptied()

    assert leases.join("llm", 0, "second").ready.done()


@pytest.mark.parametrize("loss", ["signal", "renewal"])
async def test_lost_lease_is_acquired_again_for_the_next_request(loss: str) -> None:
    arbiter = FakeArbiter()
    leases = keeper(arbiter, ttl_sec=0.02)
    leases.join("llm", 0, "first")
    await settle()
    arbiter.grant("l1")
    await settle()
    if loss == "signal":
        leases.lease_ended("l1")
    else:
        arbiter.renewals.append(NoSuchLease("gone"))
        await until(lambda: not arbiter.renewals)
    await settle()

    later = leases.join("llm", 0, "later")
    await settle()
    assert not later.ready.done()
    assert arbiter.calls[-1] == "acquire llm 0 later"
    await leases.close()


async def test_lease_is_renewed_at_half_its_time_and_kept_while_gpumand_restarts() -> None:
    arbiter = FakeArbiter()
    leases = keeper(arbiter, ttl_sec=0.02)
    leases.join("llm", 0, "first")
    await settle()
    arbiter.grant("l1")
    arbiter.renewals.append(NoAnswer("restarting"))
    await until(lambda: "renew l1" in arbiter.calls)
    await settle()

    assert leases.join("llm", 0, "second").ready.done()
    await leases.close()
    assert arbiter.calls[-1] == "release l1"


async def test_lease_of_the_last_process_is_shared_renewed_and_released_with_its_last_job() -> None:
    arbiter = FakeArbiter()
    leases = keeper(arbiter, ttl_sec=0.02)
    first, second = leases.adopt("llm", Grant("old", "llm", "", "http://127.0.0.1:1", (), False, 0.0, None), 2)

    assert leases.join("llm", 0, "new").ready.result().id == "old"
    await until(lambda: "renew old" in arbiter.calls)
    assert not any(call.startswith("acquire") for call in arbiter.calls)
    for ticket in (first, second):
        ticket.leave()
    await settle()
    assert "release old" not in arbiter.calls
    assert leases.lease_ids() == {"old"}
    await leases.close()
    assert "release old" in arbiter.calls


async def test_end_of_the_process_extends_the_leases_that_the_next_one_takes_over_and_releases_the_others() -> None:
    arbiter = FakeArbiter()
    leases = keeper(arbiter)
    leases.adopt("llm", Grant("kept", "llm", "", "", (), False, 0.0, None), 1)
    leases.adopt("tts", Grant("other", "tts", "", "", (), False, 0.0, None), 1)
    arbiter.renewals.append(NoAnswer("restarting"))

    await leases.close({"kept"})

    assert arbiter.calls == ["renew kept", "release other"]


async def test_ticket_says_why_its_lease_was_lost() -> None:
    leases = keeper(FakeArbiter())
    (ticket,) = leases.adopt("llm", Grant("l1", "llm", "", "", (), False, 0.0, None), 1)
    assert ticket.lost is None

    leases.lease_ended("l1", "revoked")

    assert ticket.lost == "revoked"
