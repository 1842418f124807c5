"""Names of users, also while the user database does not answer."""

from __future__ import annotations

import asyncio
import os
import pwd
import threading
from collections.abc import Iterator

import pytest

from gpumand.host import users
from gpumand.host.users import UserDirectory
from gpumand.vram.user_names import UserNameCache

ALICE, MISSING = 1000, 4294967200


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A directory service that knows alice, and hangs while this event is not set."""
    answers = threading.Event()

    def name_of(cache: UserNameCache, uid: int) -> str:
        answers.wait(20)
        return {ALICE: "alice"}.get(uid, "")

    monkeypatch.setattr(UserNameCache, "name_of", name_of)
    yield answers
    answers.set()


async def test_names_come_from_the_user_database() -> None:
    directory = UserDirectory()
    assert await directory.name_of(os.getuid()) == pwd.getpwuid(os.getuid()).pw_name
    assert await directory.name_of(MISSING) == ""
    await directory.close()
    assert await directory.name_of(MISSING) == ""


async def test_a_hanging_directory_service_leaves_the_user_unnamed_until_it_answers(
    answering: threading.Event,
) -> None:
    directory = UserDirectory(timeout_sec=0.01)
    assert await directory.name_of(ALICE) == ""
    answering.set()
    patient = UserDirectory(timeout_sec=20)
    assert await patient.name_of(ALICE) == "alice"
    await patient.close()
    await directory.close()


async def test_the_event_loop_continues_while_a_name_is_looked_up(answering: threading.Event) -> None:
    directory = UserDirectory(timeout_sec=20)
    lookups = [asyncio.create_task(directory.name_of(ALICE)) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(lookup.done() for lookup in lookups)
    answering.set()
    assert await asyncio.gather(*lookups) == ["alice", "alice"]
    await directory.close()


async def test_waiting_lookups_are_limited(answering: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "MAX_PENDING", 1)
    directory = UserDirectory(timeout_sec=20)
    first = asyncio.create_task(directory.name_of(ALICE))
    await asyncio.sleep(0)
    assert await directory.name_of(MISSING) == ""
    answering.set()
    assert await first == "alice"
    await directory.close()


async def test_close_does_not_wait_for_a_directory_service_that_hangs(answering: threading.Event) -> None:
    directory = UserDirectory(timeout_sec=20)
    lookup = asyncio.create_task(directory.name_of(ALICE))
    await asyncio.sleep(0)
    async with asyncio.timeout(15):
        await directory.close()
        assert await lookup == ""
