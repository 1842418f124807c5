"""Processes of programs that hold reservations: descendants, reused pids, ended parents."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from gpumand.domain.device import Devices, ProcessUse, Reading, Sample
from gpumand.domain.lease import LeaseLifetime, Owner
from gpumand.domain.reservation import Holder, ProcessKey
from gpumand.host.clock import SystemClock
from gpumand.testing.vram import FakeVram
from gpumand.vram.attribution import AttributedSource
from gpumand.vram.holders import HolderTree, ProcessEntry, ancestors, identify, read_table
from tests.waiting import DEADLINE_SEC

TRAINING = {"r": Holder(ProcessKey(10, 100))}


def table(*entries: tuple[int, int, int], session: int = 1) -> dict[int, ProcessEntry]:
    """A table of processes, each as pid, parent and start time."""
    return {pid: ProcessEntry(parent, session, started) for pid, parent, started in entries}


def test_process_and_its_descendants_belong_to_the_reservation() -> None:
    processes = table((1, 0, 1), (10, 1, 100), (11, 10, 110), (12, 11, 120), (20, 1, 90))
    assert HolderTree().assign(TRAINING, [10, 12, 20], processes) == {10: "r", 12: "r"}


def test_process_with_a_reused_pid_does_not_belong_to_the_reservation() -> None:
    processes = table((1, 0, 1), (10, 1, 500), (11, 10, 510))
    assert HolderTree().assign(TRAINING, [10, 11], processes) == {}


def test_process_that_is_older_than_its_apparent_parent_is_no_descendant() -> None:
    """The parent ended after its entry was read, and its pid was given to the program."""
    processes = table((1, 0, 1), (10, 1, 100), (11, 10, 50))
    assert HolderTree().assign(TRAINING, [11], processes) == {}


def test_process_stays_with_the_reservation_when_its_parent_has_ended() -> None:
    tree = HolderTree()
    tree.assign(TRAINING, [], table((1, 0, 1), (10, 1, 100), (11, 10, 110), (12, 11, 120)))
    assert tree.assign(TRAINING, [12], table((1, 0, 1), (10, 1, 100), (12, 1, 120))) == {12: "r"}
    assert tree.assign(TRAINING, [13], table((1, 0, 1), (12, 1, 120), (13, 12, 130))) == {13: "r"}
    assert tree.assign(TRAINING, [12], table((1, 0, 1), (12, 1, 999))) == {}, "another process has its pid now"


def test_process_of_an_ended_reservation_belongs_to_none() -> None:
    tree, processes = HolderTree(), table((1, 0, 1), (10, 1, 100), (11, 10, 110))
    assert tree.assign(TRAINING, [11], processes) == {11: "r"}
    assert tree.assign({}, [11], processes) == {}
    assert tree.assign({"s": Holder(ProcessKey(99, 1))}, [11], processes) == {}


def test_nearest_program_counts_where_reservations_are_nested() -> None:
    holders = {"outer": Holder(ProcessKey(10, 100)), "inner": Holder(ProcessKey(11, 110))}
    processes = table((1, 0, 1), (10, 1, 100), (11, 10, 110), (12, 11, 120), (13, 10, 130))
    assert HolderTree().assign(holders, [10, 11, 12, 13], processes) == {
        10: "outer",
        11: "inner",
        12: "inner",
        13: "outer",
    }


def test_first_reservation_of_a_program_counts() -> None:
    holders = {"first": Holder(ProcessKey(10, 100)), "second": Holder(ProcessKey(10, 100))}
    assert HolderTree().assign(holders, [10], table((10, 1, 100))) == {10: "first"}


def test_parent_takes_the_place_of_a_process_that_has_ended() -> None:
    """A shell script that called gpumanctl acquire goes on, and starts the program."""
    holders = {"r": Holder(ProcessKey(10, 100), parent=ProcessKey(9, 90))}
    tree = HolderTree()
    alive = table((1, 0, 1), (9, 1, 90), (10, 9, 100), (15, 9, 150))
    assert tree.assign(holders, [15], alive) == {}, "a sibling of a living program is not its own"
    ended = table((1, 0, 1), (9, 1, 90), (15, 9, 150))
    assert tree.assign(holders, [9, 15], ended) == {9: "r", 15: "r"}


def test_table_with_a_cycle_of_parents_is_handled() -> None:
    assert HolderTree().assign(TRAINING, [20], table((20, 21, 5), (21, 20, 5))) == {}


def test_client_is_identified_by_its_process_and_its_program() -> None:
    holder = identify(Owner(":1.1", os.getuid(), os.getpid()), LeaseLifetime.CONNECTION)
    entry = read_table()[os.getpid()]
    assert holder.process == ProcessKey(os.getpid(), entry.started)
    assert holder.parent == ProcessKey()
    assert holder.program


def test_parent_is_noted_only_for_a_ttl_lease_and_only_in_the_same_session() -> None:
    code = "import sys; sys.stdin.read()"
    for new_session in (False, True):
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=new_session
        ) as one:
            holder = identify(Owner(":1.1", os.getuid(), one.pid), LeaseLifetime.TTL)
            assert holder.parent.pid == (0 if new_session else os.getpid())
            one.communicate(b"")


def test_service_takes_the_place_of_a_process_that_has_ended_without_a_parent_in_its_session() -> None:
    """ExecStartPre=gpumanctl acquire --vram 4G: the main process of the service starts after that command."""
    holders = {"r": Holder(ProcessKey(10, 100), last_unit="job.service")}
    tree = HolderTree()
    tree.assign(holders, [], table((1, 0, 1), (10, 1, 100)))
    assert tree.units == {}
    tree.assign(holders, [], table((1, 0, 1), (11, 1, 110)))
    assert tree.units == {"job.service": "r"}


def test_service_is_noted_only_for_a_ttl_lease() -> None:
    owner = Owner(":1.1", os.getuid(), os.getpid(), "job.service")
    assert identify(owner, LeaseLifetime.TTL).last_unit == "job.service"
    assert identify(owner, LeaseLifetime.CONNECTION).last_unit == ""
    assert identify(replace(owner, unit="session-1.scope"), LeaseLifetime.TTL).last_unit == ""
    assert identify(replace(owner, unit="user@1000.service"), LeaseLifetime.TTL).last_unit == ""


async def test_unit_of_a_ttl_client_is_looked_up_and_a_hanging_systemd_is_not_waited_for() -> None:
    class Hanging(Units):
        async def unit_of_pid(self, pid: int) -> str:
            await asyncio.Event().wait()
            return ""

    owner = Owner(":1.1", os.getuid(), os.getpid())
    answering = Units(**{"job.service": os.getpid()})
    for units, expected, limit_sec in ((answering, "job.service", DEADLINE_SEC), (Hanging(), "", 0.05)):
        source = AttributedSource(Source(), units, lookup_timeout_sec=limit_sec)
        holder = await source.identify(owner, LeaseLifetime.TTL)
        assert (holder.last_unit, holder.process.pid) == (expected, os.getpid())
        await source.close()


def test_unit_counts_for_a_lease_bound_to_it_but_not_the_manager_of_a_user() -> None:
    def unit_of(unit: str) -> str:
        return identify(Owner(":1.1", 1000, os.getpid(), unit), LeaseLifetime.UNIT).unit

    assert unit_of("job.service") == "job.service"
    assert unit_of("user@1000.service") == ""


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_client_without_a_visible_process_has_an_empty_holder(pid: int) -> None:
    assert identify(Owner(":1.1", 1000, pid), LeaseLifetime.CONNECTION) == Holder()


# -- in readings -----------------------------------------------------------------------------------------------------


class Units:
    """A lookup of units that answers from a dictionary."""

    def __init__(self, **units: int) -> None:
        self.units = {pid: name for name, pid in units.items()}

    async def unit_of_pid(self, pid: int) -> str:
        return self.units.get(pid, "")


class Source(FakeVram):
    """A source whose processes are real ones."""

    def __init__(self, *processes: ProcessUse) -> None:
        super().__init__(SystemClock())
        self.processes = processes

    async def read(self, only: Devices = ()) -> Reading:
        return Reading((Sample(0, "GPU-0", "", "test", 24564, 0, 24564, self.processes, attributed=True),))


async def attributed(units: Units, holders: dict[str, Holder], *processes: ProcessUse) -> Sample:
    source = AttributedSource(Source(*processes), units)
    source.set_units({"comfyui.service": "comfyui"})
    source.follow(holders)
    try:
        return (await source.read()).devices[0]
    finally:
        await source.close()


async def test_memory_of_a_child_process_is_attributed_to_the_reservation() -> None:
    code = "import sys; sys.stdin.read()"
    source = AttributedSource(Source(), Units())
    holder = await source.identify(Owner(":1.1", os.getuid(), os.getpid()), LeaseLifetime.CONNECTION)
    await source.close()
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE)
    try:
        sample = await attributed(Units(), {"r": holder}, ProcessUse(child.pid, 500), ProcessUse(1, 700))
        assert (sample.held_by("r"), sample.held_by("")) == (500, 700)
    finally:
        await child.communicate(b"")


async def test_process_of_a_consumer_stays_with_its_consumer() -> None:
    units = Units(**{"comfyui.service": os.getpid()})
    holders = {"r": identify(Owner(":1.1", os.getuid(), os.getpid()), LeaseLifetime.CONNECTION)}
    sample = await attributed(units, holders, ProcessUse(os.getpid(), 500))
    assert (sample.held_by("comfyui"), sample.held_by("r")) == (500, 0)


async def test_unit_of_a_reservation_is_attributed_and_unknown_units_leave_it_unknown() -> None:
    holders = {"r": Holder(unit="job.service")}
    sample = await attributed(Units(**{"job.service": os.getpid()}), holders, ProcessUse(os.getpid(), 500))
    assert sample.held_by("r") == 500
    sample = await attributed(Units(), holders, ProcessUse(os.getpid(), 500))
    assert sample.held_by("r") is None


def test_ancestors_are_listed_from_the_parent_on() -> None:
    found = ancestors(os.getpid())

    assert found[0] == os.getppid()
    assert os.getpid() not in found
    assert 1 not in found


def test_a_process_that_does_not_exist_has_no_ancestors() -> None:
    assert ancestors(0) == ()
    assert ancestors(2**22 + 5) == ()
