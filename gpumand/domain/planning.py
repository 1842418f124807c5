"""May this consumer be had now, and at whose cost? A view and a wish in, a decision out.

The order of the questions is the order of the rules:

1. Is it configured, known how much it needs, and not backing off after a failed load?
2. Which devices? (``placement``) Nearly always one; a consumer that needs several at once gets all of them or none.
3. Is it resident already? Then it needs no room, only a lease slot and its footprint left unpromised.
4. Is anything being loaded or evicted on any of them? Then wait: one thing at a time on a device.
5. Does it fit into what is free and not promised? Then load.
6. Who may go, in LRU order? (``victims``) Do they suffice together? Drop who is not needed, evict the rest, load.
7. Would it fit if leases ended? Then wait, else refuse and say who holds what.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpumand.domain import budget, busyness, parking, placement, victims
from gpumand.domain.consumer import Residency
from gpumand.domain.device import Devices
from gpumand.domain.errors import (
    Busy,
    ConfigInvalid,
    ConsumerBackingOff,
    DeviceUnavailable,
    EvictionFailed,
    GpumandError,
    InsufficientVram,
    InvalidArgs,
    NoSuchConsumer,
)
from gpumand.domain.name_suggestions import no_such_consumer
from gpumand.domain.request import PlannedEviction, Spared, Verdict
from gpumand.domain.view import ConsumerState, View
from gpumand.domain.wording import NO_FOOTPRINT, gib, holders_line, listing, on_devices


@dataclass(frozen=True, slots=True)
class Requirement:
    """What is to be decided.

    Attributes:
        consumer: which one is wanted.
        devices: those it must be on, or that must be among its own where it needs more; () = any that fit.
        wants_lease: a lease is to stand afterwards (Acquire), so that slots count; False for Load by hand.
        holds_slot: its lease slot is held for it already (the job that loaded it was its own).
        from_own_unit: asked for from within the consumer's own unit, which is starting: waiting for that unit here
            would be waiting for ourselves.
        evictions_done: evictions already tried for it; ``max_evictions`` counts all of them.
    """

    consumer: str
    devices: Devices = ()
    wants_lease: bool = True
    holds_slot: bool = False
    from_own_unit: bool = False
    evictions_done: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer.

    Attributes:
        verdict: grant, wait or refuse.
        place: where: the devices that it takes together; () only when refused before any were chosen.
        resident: it is resident: nothing to do but to grant.
        load: it is to be loaded (after ``evictions``).
        need_mib, free_mib: see ``budget``; None = unknown. Of several devices: on the one with least to spare.
        evictions: victims in order, when verdict is grant.
        spared: consumers on the device that are not victims, and why.
        error: what a refusal raises; for a wait, what being told not to wait raises.
        message: one line: why.
        looked_at_vram: live figures went into it, so that it stands only on a fresh sample.
        devices: where it could be served, now or later: what must not be taken away from it meanwhile.
        busy: consumers whose own work it waits for.
        cost: what the evictions cost, by the policy in force.
        beside: further devices that its victims are on.
    """

    verdict: Verdict
    place: Devices = ()
    resident: bool = False
    load: bool = False
    need_mib: int | None = None
    free_mib: int | None = None
    evictions: tuple[PlannedEviction, ...] = ()
    spared: tuple[Spared, ...] = ()
    error: type[GpumandError] | None = None
    message: str = ""
    looked_at_vram: bool = False
    devices: tuple[int, ...] = ()
    busy: tuple[str, ...] = ()
    cost: float = 0.0
    beside: Devices = ()


def decide(view: View, requirement: Requirement) -> Decision:
    """Decide about one wish. Pure: the same view and wish give the same decision."""
    state = view.consumers.get(requirement.consumer)
    if state is None:
        return _refuse(NoSuchConsumer, no_such_consumer(requirement.consumer, view.consumers).message)
    if not state.footprint_known:
        return _refuse(ConfigInvalid, f"{state.name} cannot be lent: {NO_FOOTPRINT}")
    places = _places(view, requirement, state)
    if not places:
        return _refuse(DeviceUnavailable, placement.why_none(view, state, requirement.devices))
    return _best_of([_decide_on(view, requirement, state, place) for place in places])


def decide_inside(view: View, requirement: Requirement, place: Devices) -> Decision:
    """Decide again in the middle of the wish's own job, as if its devices were free: they are ours."""
    own = view.jobs.get(place[0])
    jobs = {index: job for index, job in view.jobs.items() if job is not own}
    return decide(replace(view, jobs=jobs), replace(requirement, devices=place, holds_slot=True))


def _places(view: View, requirement: Requirement, state: ConsumerState) -> Sequence[Devices]:
    """Where it may be: each a set of devices that it takes together."""
    here = placement.stays_on(view, state, requirement.devices)
    if here:
        return [here]
    allowed, count = placement.allowed(view, state, requirement.devices), placement.count_on(view, state)
    if len(allowed) < count:
        return []
    if placement.are_few(allowed, requirement.devices, count):
        return placement.every(allowed, requirement.devices, count)
    alone = {device: _decide_on(view, requirement, state, (device,)) for device in allowed}
    return placement.neighbours(sorted(allowed, key=lambda one: _rank(alone[one])), requirement.devices, count)


_RANK = {Verdict.GRANT: 0, Verdict.WAIT: 1, Verdict.REFUSE: 2}


def _rank(one: Decision) -> tuple[int, bool, float, int]:
    """A grant before a wait before a refusal, a fit before evictions, what costs least first, then most free."""
    return _RANK[one.verdict], bool(one.evictions), one.cost, -(one.free_mib or 0)


def _best_of(decisions: list[Decision]) -> Decision:
    best = min(decisions, key=_rank)
    served = {device for one in decisions if one.verdict is not Verdict.REFUSE for device in one.place}
    return replace(best, looked_at_vram=any(one.looked_at_vram for one in decisions), devices=tuple(sorted(served)))


def _decide_on(view: View, requirement: Requirement, state: ConsumerState, place: Devices) -> Decision:
    if state.devices != place and state.claimed:
        # Its footprint is promised elsewhere; the same process cannot be in two places.
        return _wait(place, f"{state.name} is in use on {on_devices(state.devices)}")
    if any(state.name in job.evicting for job in view.jobs.values()):
        return _wait(place, f"{state.name} is about to be evicted")
    if state.residency is Residency.RESIDENT and state.devices in ((), place):
        return _resident(view, requirement, state, place)
    if placement.is_elsewhere(view, state, place):
        words = f"{state.name} is {state.residency} on {on_devices(state.devices)}; evict it first"
        return _refuse(InvalidArgs, words, place)
    if requirement.from_own_unit and state.residency is Residency.LOADING and not state.unasked:
        return Decision(Verdict.GRANT, place, resident=True, message=f"{state.name} is being loaded: its own unit asks")
    return _absent(view, requirement, state, place)


def _resident(view: View, requirement: Requirement, state: ConsumerState, place: Devices) -> Decision:
    blocked = None
    if requirement.wants_lease:
        blocked = (
            _no_slot(view, requirement, place)
            or _never_fits(view, state, place, cushion_mib=0)
            or _overcommitted(view, state, place)
        )
    return blocked or Decision(Verdict.GRANT, place, resident=True, message=f"{state.name} is resident")


def _absent(view: View, requirement: Requirement, state: ConsumerState, place: Devices) -> Decision:
    for device in place:
        if view.devices[device].lost:
            return _refuse(DeviceUnavailable, f"device {device} is lost: {view.devices[device].error}", place)
    if state.retry_at > view.now:
        left_sec = state.retry_at - view.now
        message = f"{state.name} failed to load; it may be tried again in {left_sec:.0f} s ({state.error})"
        return _refuse(ConsumerBackingOff, message, place)
    return (
        _never_fits(view, state, place, cushion_mib=view.settings.cushion_mib)
        or _being_moved(view, requirement, state, place)
        or _no_slot(view, requirement, place)
        or _overcommitted(view, state, place)
        or _make_room(view, requirement, state, place)
    )


def _never_fits(view: View, state: ConsumerState, place: Devices, cushion_mib: int) -> Decision | None:
    """Waiting for leases to end would be in vain where it does not fit into an empty device with its cushion."""
    footprint_mib = state.footprint_mib
    for device in place:
        total_mib = budget.total_mib(view, device)
        if total_mib is None or footprint_mib + cushion_mib <= total_mib:
            continue
        need = gib(footprint_mib)
        if footprint_mib <= total_mib:
            need = f"{gib(footprint_mib + cushion_mib)}, {gib(cushion_mib)} of them for its cushion"
        return _refuse(InsufficientVram, f"{state.name} needs {need}; device {device} has {gib(total_mib)}", place)
    return None


def _being_moved(view: View, requirement: Requirement, state: ConsumerState, place: Devices) -> Decision | None:
    """Wait while anything is loaded or evicted on any of the devices: one thing at a time."""
    for device in place:
        job = view.jobs.get(device)
        if job is not None:
            doing = f"evicting {job.evicting[0]}" if job.evicting else f"loading {job.consumer}"
            return _wait(place, f"{doing} on device {device}")
    if state.residency is Residency.UNLOADING:
        return _wait(place, f"{state.name} is being unloaded")
    for other in view.loading:
        is_own_start = other.name == state.name and requirement.from_own_unit
        if not is_own_start and not set(place).isdisjoint(other.devices):
            return _wait(place, f"{other.name} is loading on {on_devices(other.devices)}")
    return None


def _no_slot(view: View, requirement: Requirement, place: Devices) -> Decision | None:
    slots = view.settings.concurrent_leases
    if not requirement.wants_lease or requirement.holds_slot or slots == 0:
        return None
    for device in place:
        if view.slots_taken(device) >= slots:
            holders = [one.name for one in view.consumers.values() if one.leases and device in one.devices]
            return _wait(place, f"device {device} is leased ({listing(holders) or 'being loaded'})")
    return None


def _overcommitted(view: View, state: ConsumerState, place: Devices) -> Decision | None:
    """Footprints promised at one time never exceed a device, however little of them is visible."""
    for device in place:
        total_mib = budget.total_mib(view, device)
        if total_mib is None:
            continue
        committed_mib = budget.committed_mib(view, device, besides=state.name)
        if committed_mib + state.footprint_mib > total_mib:
            claimants = _claimants(view, state, (device,))
            known = all(one.footprint_known for one in claimants)
            much = f"{gib(committed_mib)} of device {device} are" if known else f"an unknown part of device {device} is"
            return _wait(place, f"{much} promised to {listing([one.name for one in claimants])}")
    return None


def _claimants(view: View, state: ConsumerState, place: Devices) -> list[ConsumerState]:
    others = view.consumers.values()
    return [one for one in others if one.claimed and one.name != state.name and not set(one.devices).isdisjoint(place)]


@dataclass(frozen=True, slots=True)
class _Room:
    """What is needed and what is free on one device; ``free_mib`` None = unknown."""

    device: int
    need_mib: int
    free_mib: int | None

    @property
    def short_mib(self) -> int:
        """0 where nothing is, or nobody knows."""
        return 0 if self.free_mib is None else max(0, self.need_mib - self.free_mib)


def _make_room(view: View, requirement: Requirement, state: ConsumerState, place: Devices) -> Decision:
    rooms = [
        _Room(device, budget.need_mib(view, device, state.name), budget.free_mib(view, device, state.name))
        for device in place
    ]
    short_mib = {room.device: room.short_mib for room in rooms if room.short_mib}
    limit = max(0, view.settings.max_evictions - requirement.evictions_done) if short_mib else 0
    choice = parking.choose(view, place, state, short_mib, limit)
    if choice.suffices:
        return _load(view, state, rooms, choice)
    stuck = [one.consumer for one in choice.spared if one.why == parking.NO_ROOM]
    short = _short_of_room(view, state, rooms, stuck)
    message = f"{short.message}; host RAM has no room to park {listing(stuck)} in" if stuck else short.message
    return replace(short, spared=choice.spared, message=message, looked_at_vram=True)


def _place(rooms: Sequence[_Room]) -> Devices:
    return tuple(room.device for room in rooms)


def _tightest(rooms: Sequence[_Room]) -> _Room:
    """The device that has least to spare; one of which nothing is known has most."""
    return min(rooms, key=lambda room: math.inf if room.free_mib is None else room.free_mib - room.need_mib)


def _load(view: View, state: ConsumerState, rooms: Sequence[_Room], choice: victims.Choice) -> Decision:
    tightest, place = _tightest(rooms), _place(rooms)
    need, free = gib(tightest.need_mib), "" if tightest.free_mib is None else f", {gib(tightest.free_mib)} are free"
    each = "" if len(rooms) == 1 else f" on each of {on_devices(place)}"
    also = {device for victim in choice.victims for device in view.consumers[victim.consumer].devices}
    return Decision(
        Verdict.GRANT,
        place,
        load=True,
        need_mib=tightest.need_mib,
        free_mib=tightest.free_mib,
        evictions=choice.victims,
        spared=choice.spared,
        message=f"{state.name} needs {need}{each}{free}",
        looked_at_vram=any(view.devices[device].known for device in place),
        cost=choice.cost,
        beside=tuple(sorted(also.intersection(view.devices).difference(place))),
    )


def _short_of_room(view: View, state: ConsumerState, rooms: Sequence[_Room], stuck: Sequence[str]) -> Decision:
    """Nobody is evicted in vain: wait where a lease or a load stands in the way, refuse where that would not help.

    ``stuck``: who could go if host RAM had room; it counts as one that goes where some is about to come free.
    """
    place = _place(rooms)
    in_the_way = victims.temporarily_spared(view, place, state)
    parking_first = parking.about_to_make_room(view, place, state, stuck) if stuck else []
    could_go = [one for one in victims.candidates(view, place, state) if parking_first or one.name not in stuck]
    worst, spare_mib = _worst_once_free(view, state, rooms, [*could_go, *in_the_way])
    claimants = _claimants(view, state, place)
    if (in_the_way or claimants or parking_first) and spare_mib >= 0:
        busy = tuple(one.name for one in in_the_way if victims.works(view, one))
        ends = _what_ends(view, in_the_way or claimants, place) or f"host RAM that {listing(parking_first)} takes now"
        waits = replace(_wait(place, ends), busy=busy)
        return replace(waits, need_mib=worst.need_mib, free_mib=worst.free_mib)
    refused = _refuse_for_want_of_room(view, state, rooms, worst, [*could_go, *in_the_way])
    return replace(refused, need_mib=worst.need_mib, free_mib=worst.free_mib)


def _refuse_for_want_of_room(
    view: View, state: ConsumerState, rooms: Sequence[_Room], worst: _Room, could_go: list[ConsumerState]
) -> Decision:
    place = _place(rooms)
    line = (
        f"{state.name} needs {gib(worst.need_mib)} on device {worst.device}, "
        f"{gib(max(0, worst.free_mib or 0))} are free; held: {holders_line(view, worst.device, besides=state.name)}"
    )
    given_up = victims.given_up(view, place, state)
    if given_up and _worst_once_free(view, state, rooms, [*could_go, *given_up])[1] >= 0:
        words = [f"{one.name} is {busyness.in_words(one)} for longer than it is waited for" for one in given_up]
        return _refuse(Busy, f"{listing(words)}; {line}", place)
    if view.evict_failed:
        return _refuse(EvictionFailed, f"{listing(sorted(view.evict_failed))} gave nothing back; {line}", place)
    return _refuse(InsufficientVram, line, place)


def _what_ends(view: View, in_the_way: list[ConsumerState], place: Devices) -> str:
    """What is waited for: leases and loads, and the work of those who say that they are busy."""
    busy = [one for one in in_the_way if victims.works(view, one)]
    others = [one.name for one in in_the_way if one not in busy]
    words = [f"{listing(others)} in use on {on_devices(place)}"] if others else []
    for one in busy:
        left = busyness.grace_left(one, view.now)
        words.append(f"{one.name} is {busyness.in_words(one)}" + (f", {left}" if left else ""))
    return listing(words)


def _worst_once_free(
    view: View, state: ConsumerState, rooms: Sequence[_Room], could_go: list[ConsumerState]
) -> tuple[_Room, float]:
    """The device with least to spare once every lease and load has ended, and how much: below 0 it never fits.

    Then those in the way may be evicted as well: they are among those that could go.
    """
    spare = [
        math.inf if room.free_mib is None else _room_once_free(view, state, room, could_go) - room.need_mib
        for room in rooms
    ]
    return rooms[spare.index(min(spare))], min(spare)


def _room_once_free(view: View, state: ConsumerState, room: _Room, could_go: list[ConsumerState]) -> int:
    there = [one for one in could_go if one.on(room.device)]
    freed = victims.yields(view, room.device, there, victims.stopped_whole(there))
    room_mib = (room.free_mib or 0) + sum(freed.values())
    if not view.devices[room.device].known:
        return room_mib  # declared figures count every footprint whole: nothing is reserved on top of them
    reserved = budget.reserved_by_consumer(view, room.device)
    return room_mib + sum(mib for name, mib in reserved.items() if name != state.name)


def _wait(place: Devices, message: str) -> Decision:
    return Decision(Verdict.WAIT, place, error=Busy, message=message)


def _refuse(error: type[GpumandError], message: str, place: Devices = ()) -> Decision:
    return Decision(Verdict.REFUSE, place, error=error, message=message)
