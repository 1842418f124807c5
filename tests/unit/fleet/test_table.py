"""The router's table: which rows count, which hosts are lost, and what happens while the store is away."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.fleet.keys import Keys
from gpumand.fleet.row_json import encode_host, encode_intent
from gpumand.fleet.rows import HostRow, Intent
from gpumand.fleet.store import Entry, Interrupted, Listing, Removed, Written
from gpumand.fleet.table import LOST_SEC, HostTable
from tests.unit.fleet.fleet_rows import RESIDENT, consumer, host, machine_id

KEYS = Keys("lab")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(clock: Clock) -> HostTable:
    return HostTable(KEYS, clock)


def entry(row: HostRow, revision: int = 5) -> Entry:
    return Entry(KEYS.host(row.machine_id), encode_host(row), revision)


def written(row: HostRow, revision: int = 5) -> Written:
    return Written(entry(row, revision))


async def test_newer_row_replaces_an_older_one_and_never_the_other_way_round(table: HostTable) -> None:
    row = host(1, epoch=2, seq=7, chat=consumer())
    table.apply(written(row, 5))
    for old in (replace(row, seq=6, name="old"), replace(row, epoch=1, seq=99, name="old")):
        table.apply(written(old, 6))
        assert table.rows[machine_id(1)].row.name == "gpu1"
    table.apply(written(replace(row, epoch=3, seq=0, name="restarted"), 7))
    assert (table.rows[machine_id(1)].row.name, table.rows[machine_id(1)].revision) == ("restarted", 7)
    assert table.revision == 7


async def test_host_whose_lease_has_ended_is_gone(table: HostTable) -> None:
    table.apply(written(host(1)))
    table.apply(Removed(KEYS.host(machine_id(1)), 9))
    assert not table.view().hosts
    assert table.revision == 9


async def test_listing_replaces_everything_that_was_missed(table: HostTable) -> None:
    table.apply(written(host(1)))
    table.apply(Written(Entry(KEYS.intent("chat"), encode_intent(Intent(machine_id(1), "r", "n")), 6)))
    table.apply(Written(Entry(KEYS.drain(machine_id(1)), "1", 7)))
    assert table.view().intents.keys() == {"chat"}
    table.apply(Listing((entry(host(2), 9),), 12))
    view = table.view()
    assert (set(view.hosts), view.intents, view.drained) == ({machine_id(2)}, {}, frozenset())
    assert table.revision == 12


async def test_interrupted_watch_keeps_the_last_table(table: HostTable) -> None:
    table.apply(Listing((entry(host(1)),), 5))
    assert table.interruption == ""
    table.apply(Interrupted("no quorum"))
    assert table.interruption == "no quorum"
    assert set(table.view().hosts) == {machine_id(1)}
    table.apply(Listing((entry(host(1)),), 5))
    assert table.interruption == ""


async def test_host_alone_knows_itself_until_the_store_gives_news(table: HostTable) -> None:
    own = host(1, chat=consumer())
    table.note_own(own)
    table.note_own(replace(own, seq=2, queue=3))
    table.note_own(own)
    assert table.rows[machine_id(1)].row.queue == 3
    table.apply(Listing((entry(host(2)),), 5))
    table.note_own(replace(own, seq=3))
    assert set(table.rows) == {machine_id(2)}, "the store decides which hosts are in the fleet"


async def test_lost_host_comes_back_after_a_pause_and_a_new_row(table: HostTable, clock: Clock) -> None:
    row = host(1, chat=consumer(RESIDENT))
    table.apply(written(row))
    table.note_lost(machine_id(1), "it does not answer")
    assert table.losses() == {machine_id(1): "it does not answer"}
    clock.now += LOST_SEC + 1
    assert table.view().lost == {machine_id(1)}, "without a new row there is no sign that it is back"
    table.apply(written(replace(row, seq=2)))
    assert table.view().lost == frozenset()


async def test_lost_host_whose_row_had_ended_comes_back_with_any_row(table: HostTable, clock: Clock) -> None:
    row = replace(host(1), epoch=7, seq=9)
    table.apply(written(row))
    table.note_lost(machine_id(1), "it does not answer")
    table.apply(Removed(KEYS.host(machine_id(1)), 6))
    table.apply(written(replace(row, epoch=0, seq=1)))
    assert table.view().lost == {machine_id(1)}
    clock.now += LOST_SEC + 1
    assert table.view().lost == frozenset()


async def test_new_row_of_a_host_that_was_just_lost_does_not_bring_it_back_at_once(table: HostTable) -> None:
    row = host(1)
    table.apply(written(row))
    table.note_lost(machine_id(1), "it does not answer")
    table.apply(written(replace(row, seq=2)))
    assert table.view().lost == {machine_id(1)}
    table.note_reached(machine_id(1))
    assert table.view().lost == frozenset()


async def test_copies_of_a_consumer_have_intents_of_their_own(table: HostTable) -> None:
    for replica in (0, 1):
        value = encode_intent(Intent(machine_id(replica + 1), "r", f"n{replica}"))
        table.apply(Written(Entry(KEYS.intent("chat", replica), value, 5 + replica)))
    assert [one.host for one in table.view().intents["chat"]] == [machine_id(1), machine_id(2)]
    table.apply(Removed(KEYS.intent("chat"), 8))
    assert [one.host for one in table.view().intents["chat"]] == [machine_id(2)]


@pytest.mark.parametrize(
    "bad",
    [
        Entry(KEYS.host(machine_id(2)), "{", 5),
        Entry(KEYS.host(machine_id(2)), encode_host(host(3)), 5),
        Entry(KEYS.host(machine_id(2)), "[" * 60000, 5),
        Entry(KEYS.hosts + "x", encode_host(host(2)), 5),
        Entry(KEYS.intents + "a b", encode_intent(Intent(machine_id(1), "r", "n")), 5),
        Entry(KEYS.intents + "chat", '{"host": "../gpu1"}', 5),
        Entry(KEYS.drains + "x", "1", 5),
        Entry(KEYS.pins + "chat", "gpu1", 5),
        Entry("/gpumand/other/hosts/" + machine_id(2), encode_host(host(2)), 5),
    ],
)
async def test_invalid_entries_of_the_store_are_ignored(table: HostTable, bad: Entry) -> None:
    table.apply(written(host(1)))
    table.apply(Written(bad))
    view = table.view()
    assert (set(view.hosts), view.intents, view.drained, view.pins) == ({machine_id(1)}, {}, frozenset(), {})


async def test_hosts_are_found_by_name_and_by_machine_id(table: HostTable) -> None:
    table.apply(written(host(2)))
    for name in ("gpu2", machine_id(2)):
        found = table.find(name)
        assert found is not None
        assert found.row.machine_id == machine_id(2)
    assert table.find("gpu9") is None


async def test_waiters_are_woken_by_the_next_change(table: HostTable) -> None:
    waiting = [asyncio.ensure_future(table.wait_changed(30.0)) for _ in range(2)]
    await asyncio.sleep(0)
    table.apply(written(host(1)))
    assert await asyncio.gather(*waiting) == [True, True]
    assert not await table.wait_changed(0.0)


async def test_store_that_was_set_up_again_is_followed_from_its_first_revision(table: HostTable) -> None:
    table.apply(Listing((entry(host(1), 900),), 900))
    table.apply(Listing((entry(host(1), 3),), 4))
    assert table.revision == 4
    assert not await table.wait_watched(5, 0.0)
    table.learn(Entry(KEYS.intent("chat"), encode_intent(Intent(machine_id(1), "r", "n")), 6))
    assert table.has_intent("chat", machine_id(1), 6)


async def test_intent_stands_after_it_was_extended_and_only_for_its_host(table: HostTable) -> None:
    for revision in (5, 9):
        table.apply(Written(Entry(KEYS.intent("chat"), encode_intent(Intent(machine_id(1), "r", "n")), revision)))
    assert table.has_intent("chat", machine_id(1), 5)
    assert not table.has_intent("chat", machine_id(2), 5)
    table.apply(Removed(KEYS.intent("chat"), 10))
    assert not table.has_intent("chat", machine_id(1), 5)


async def test_number_of_drains_and_pins_that_are_kept_is_limited(
    table: HostTable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gpumand.fleet.table.MAX_KEPT", 3)
    for number in range(5):
        table.apply(Written(Entry(KEYS.drain(machine_id(number)), "drained", 6)))
        table.apply(Written(Entry(KEYS.pin(f"c{number}"), machine_id(1), 6)))
    ignored = [one.getMessage() for one in caplog.records]
    assert sum("is ignored: there are 3 drains, which is the limit" in one for one in ignored) == 2
    assert sum("is ignored: there are 3 pins, which is the limit" in one for one in ignored) == 2
    table.apply(Written(Entry(KEYS.drain(machine_id(0)), "drained", 7)))
    table.apply(Written(Entry(KEYS.pin("c0"), machine_id(2), 7)))
    assert len(caplog.records) == 4, "those that are kept are written again"
    view = table.view()
    assert view.drained == {machine_id(0), machine_id(1), machine_id(2)}
    assert view.pins == {"c0": machine_id(2), "c1": machine_id(1), "c2": machine_id(1)}


async def test_intent_beyond_the_limit_is_ignored_with_a_line_in_the_log(
    table: HostTable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gpumand.fleet.table.MAX_INTENTS", 1)
    for revision, name in enumerate(("chat", "chat", "image"), 5):
        intent = encode_intent(Intent(machine_id(1), "r", f"n{revision}"))
        table.apply(Written(Entry(KEYS.intent(name), intent, revision)))
    assert set(table.view().intents) == {"chat"}
    (line,) = caplog.records
    assert "image in the store is ignored: there are 1 intents, which is the limit" in line.getMessage()


async def test_key_of_an_ignored_entry_cannot_forge_lines_of_the_log(
    table: HostTable, caplog: pytest.LogCaptureFixture
) -> None:
    table.apply(Written(Entry(KEYS.intents + "chat", "no JSON", 6)))
    table.apply(Written(Entry(KEYS.hosts + "a\nERROR forged\x1b[2J", "no JSON", 6)))
    assert "in the store is ignored" in caplog.text
    assert all("\x1b" not in one.getMessage() and "\n" not in one.getMessage() for one in caplog.records)
