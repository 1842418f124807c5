"""May this consumer be had now, and at whose cost? A view and a wish in, a decision out.

The order of the questions is the order of the rules:

1. Is it configured, and not backing off after a failed load?
2. Which device? (``placement``)
3. Is it resident already? Then it needs no room, only a lease slot and its footprint left unpromised.
4. Is anything being loaded or evicted there? Then wait: one thing at a time on a device.
5. Does it fit into what is free and not promised? Then load.
6. Who may go, in LRU order? (``victims``) Do they suffice together? Drop who is not needed, evict the rest, load.
7. Would it fit if leases ended? Then wait, else refuse and say who holds what.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpumand.domain import budget, busyness, placement, victims
from gpumand.domain.consumer import Residency
from gpumand.domain.errors import (
    Busy,
    ConsumerBackingOff,
    DeviceUnavailable,
    EvictionFailed,
    GpumandError,
    InsufficientVram,
    InvalidArgs,
    NoSuchConsumer,
)
from gpumand.domain.request import PlannedEviction, Spared, Verdict
from gpumand.domain.view import ConsumerState, View
from gpumand.domain.words import gib, holders_line, listing


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be decided.

    Attributes:
        consumer: which one is wanted.
        device: index of the device it must be on; None = any that fits.
        wants_lease: a lease is to stand afterwards (Acquire), so that slots count; False for Load by hand.
        holds_slot: its lease slot is held for it already (the job that loaded it was its own).
        from_own_unit: asked for from within the consumer's own unit, which is starting: waiting for that unit here
            would be waiting for ourselves.
        evictions_done: evictions already tried for it; ``max_evictions`` counts all of them.
    """

    consumer: str
    device: int | None = None
    wants_lease: bool = True
    holds_slot: bool = False
    from_own_unit: bool = False
    evictions_done: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer.

    Attributes:
        verdict: grant, wait or refuse.
        device: where; None only when refused before one was chosen.
        resident: it is resident: nothing to do but to grant.
        load: it is to be loaded (after ``evictions``).
        need_mib, free_mib: see ``budget``; None = unknown.
        evictions: victims in order, when verdict is grant.
        spared: consumers on the device that are not victims, and why.
        error: what a refusal raises; for a wait, what being told not to wait raises.
        message: one line: why.
        looked_at_vram: live figures went into it, so that it stands only on a fresh sample.
        devices: where it could be served, now or later: what must not be taken away from it meanwhile.
        busy: consumers whose own work it waits for.
    """

    verdict: Verdict
    device: int | None = None
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


def decide(view: View, wish: Wish) -> Decision:
    """Decide about one wish. Pure: the same view and wish give the same decision."""
    state = view.consumers.get(wish.consumer)
    if state is None:
        return _refuse(NoSuchConsumer, f"no consumer {wish.consumer!r} is configured")
    candidates = placement.devices_for(view, state, wish.device)
    if not candidates:
        return _refuse(DeviceUnavailable, placement.why_none(view, state, wish.device))
    return _best_of([_decide_on(view, wish, state, device) for device in candidates])


def decide_inside(view: View, wish: Wish, device: int) -> Decision:
    """Decide again in the middle of the wish's own job, as if the device were free: it is ours."""
    jobs = {index: job for index, job in view.jobs.items() if index != device}
    return decide(replace(view, jobs=jobs), replace(wish, device=device, holds_slot=True))


def _best_of(decisions: list[Decision]) -> Decision:
    """A grant before a wait before a refusal, a fit before evictions, few evictions before many, most free first."""
    rank = {Verdict.GRANT: 0, Verdict.WAIT: 1, Verdict.REFUSE: 2}
    best = min(decisions, key=lambda one: (rank[one.verdict], len(one.evictions), -(one.free_mib or 0)))
    return replace(
        best,
        looked_at_vram=any(one.looked_at_vram for one in decisions),
        devices=tuple(one.device for one in decisions if one.device is not None and one.verdict is not Verdict.REFUSE),
    )


def _decide_on(view: View, wish: Wish, state: ConsumerState, device: int) -> Decision:
    if state.device != device and state.claimed:
        # Its footprint is promised elsewhere; the same process cannot be in two places.
        return _wait(device, f"{state.name} is in use on device {state.device}")
    if any(state.name in job.evicting for job in view.jobs.values()):
        return _wait(device, f"{state.name} is about to be evicted")
    if state.residency is Residency.RESIDENT and state.on(device):
        return _resident(view, wish, state, device)
    if state.residency is Residency.RESIDENT and state.device in view.devices:
        return _refuse(InvalidArgs, f"{state.name} is resident on device {state.device}; evict it first", device)
    if wish.from_own_unit and state.residency is Residency.LOADING and not state.unasked:
        return Decision(
            Verdict.GRANT, device, resident=True, message=f"{state.name} is being loaded: its own unit asks"
        )
    return _absent(view, wish, state, device)


def _resident(view: View, wish: Wish, state: ConsumerState, device: int) -> Decision:
    blocked = _no_slot(view, wish, device) or _overcommitted(view, state, device) if wish.wants_lease else None
    return blocked or Decision(Verdict.GRANT, device, resident=True, message=f"{state.name} is resident")


def _absent(view: View, wish: Wish, state: ConsumerState, device: int) -> Decision:
    if view.devices[device].lost:
        return _refuse(DeviceUnavailable, f"device {device} is lost: {view.devices[device].error}", device)
    if state.retry_at > view.now:
        left_sec = state.retry_at - view.now
        message = f"{state.name} failed to load; tried again in {left_sec:.0f} s ({state.error})"
        return _refuse(ConsumerBackingOff, message, device)
    return (
        _being_moved(view, wish, state, device)
        or _no_slot(view, wish, device)
        or _overcommitted(view, state, device)
        or _make_room(view, wish, state, device)
    )


def _being_moved(view: View, wish: Wish, state: ConsumerState, device: int) -> Decision | None:
    """Wait while anything is loaded or evicted on the device: one thing at a time."""
    job = view.jobs.get(device)
    if job is not None:
        doing = f"evicting {job.evicting[0]}" if job.evicting else f"loading {job.consumer}"
        return _wait(device, f"{doing} on device {device}")
    if state.residency is Residency.UNLOADING:
        return _wait(device, f"{state.name} is being unloaded")
    for other in view.loading:
        is_own_start = other.name == state.name and wish.from_own_unit
        if other.device == device and not is_own_start:
            return _wait(device, f"{other.name} is loading on device {device}")
    return None


def _no_slot(view: View, wish: Wish, device: int) -> Decision | None:
    slots = view.settings.concurrent_leases
    if not wish.wants_lease or wish.holds_slot or slots == 0 or view.slots_taken(device) < slots:
        return None
    holders = [state.name for state in view.consumers.values() if state.leases and state.device == device]
    return _wait(device, f"device {device} is leased ({listing(holders) or 'being loaded'})")


def _overcommitted(view: View, state: ConsumerState, device: int) -> Decision | None:
    """Footprints promised at one time never exceed the device, however little of them is visible."""
    total_mib = budget.total_mib(view, device)
    if total_mib is None:
        return None
    if state.footprint_mib > total_mib:
        message = f"{state.name} needs {gib(state.footprint_mib)}, device {device} has {gib(total_mib)}"
        return _refuse(InsufficientVram, message, device)
    committed_mib = budget.committed_mib(view, device, besides=state.name)
    if committed_mib + state.footprint_mib <= total_mib:
        return None
    return _wait(device, f"{gib(committed_mib)} of device {device} are promised to {_claimants(view, state, device)}")


def _claimants(view: View, state: ConsumerState, device: int) -> str:
    others = view.consumers.values()
    return listing([one.name for one in others if one.claimed and one.device == device and one.name != state.name])


def _make_room(view: View, wish: Wish, state: ConsumerState, device: int) -> Decision:
    need_mib = budget.need_mib(view, device, state.name)
    free_mib = budget.free_mib(view, device, state.name)
    if free_mib is None or free_mib >= need_mib:
        spared = victims.choose(view, device, state, 0, 0).spared
        return _load(view, state, device, need_mib, free_mib, spared)
    limit = max(0, view.settings.max_evictions - wish.evictions_done)
    choice = victims.choose(view, device, state, need_mib - free_mib, limit)
    if choice.suffices:
        load = _load(view, state, device, need_mib, free_mib, choice.spared)
        return replace(load, evictions=choice.victims)
    short = replace(
        _short_of_room(view, state, device, need_mib, free_mib),
        need_mib=need_mib,
        free_mib=free_mib,
        spared=choice.spared,
    )
    return replace(short, looked_at_vram=True)


def _load(
    view: View,
    state: ConsumerState,
    device: int,
    need_mib: int,
    free_mib: int | None,
    spared: tuple[Spared, ...],
) -> Decision:
    return Decision(
        Verdict.GRANT,
        device,
        load=True,
        need_mib=need_mib,
        free_mib=free_mib,
        spared=spared,
        message=f"{state.name} needs {gib(need_mib)}" + ("" if free_mib is None else f", {gib(free_mib)} are free"),
        looked_at_vram=view.devices[device].known,
    )


def _short_of_room(view: View, state: ConsumerState, device: int, need_mib: int, free_mib: int) -> Decision:
    """Nobody is evicted in vain: wait where a lease or a load stands in the way, refuse where that would not help."""
    line = (
        f"{state.name} needs {gib(need_mib)} on device {device}, {gib(max(0, free_mib))} are free; "
        f"held: {holders_line(view, device, besides=state.name)}"
    )
    in_the_way = victims.temporarily_spared(view, device, state)
    claimants = [one for one in view.consumers.values() if one.claimed and one.device == device and one is not state]
    if (in_the_way or claimants) and _room_once_free(view, state, device, in_the_way) >= need_mib:
        busy = tuple(one.name for one in in_the_way if victims.works(view, one))
        return replace(_wait(device, _what_ends(view, in_the_way or claimants, device)), busy=busy)
    given_up = victims.given_up(view, device, state)
    if given_up and _room_once_free(view, state, device, [*in_the_way, *given_up]) >= need_mib:
        words = [f"{one.name} is {busyness.in_words(one)} for longer than it is waited for" for one in given_up]
        return _refuse(Busy, f"{listing(words)}; {line}", device)
    if view.evict_failed:
        return _refuse(EvictionFailed, f"{listing(sorted(view.evict_failed))} gave nothing back; {line}", device)
    return _refuse(InsufficientVram, line, device)


def _what_ends(view: View, in_the_way: list[ConsumerState], device: int) -> str:
    """What is waited for: leases and loads, and the work of those who say that they are busy."""
    busy = [one for one in in_the_way if victims.works(view, one)]
    others = [one.name for one in in_the_way if one not in busy]
    words = [f"{listing(others)} in use on device {device}"] if others else []
    for one in busy:
        left = busyness.grace_left(one, view.now)
        words.append(f"{one.name} is {busyness.in_words(one)}" + (f", {left}" if left else ""))
    return listing(words)


def _room_once_free(view: View, state: ConsumerState, device: int, in_the_way: list[ConsumerState]) -> int:
    """What could be free once every lease and load has ended: then those in the way may be evicted as well."""
    could_go = [*victims.candidates(view, device, state), *in_the_way]
    room_mib = (budget.free_mib(view, device, state.name) or 0) + sum(victims.yields(view, device, could_go).values())
    if not view.devices[device].known:
        return room_mib  # declared figures count every footprint whole: nothing is reserved on top of them
    reserved = budget.reserved_by_consumer(view, device)
    return room_mib + sum(mib for name, mib in reserved.items() if name != state.name)


def may_pass(view: View, name: str, device: int, ahead: list[str]) -> bool:
    """Whether a resident consumer may be leased although requests ahead of it still wait for the same device.

    Only where it cannot make any of them wait longer: slots are unlimited, those ahead could never evict it anyway,
    and its footprint leaves room for theirs beside all that is promised. Everything else is first come, first served.
    """
    state, total_mib = view.consumers[name], budget.total_mib(view, device)
    if view.settings.concurrent_leases or total_mib is None:
        return False
    wanted = sum(view.consumers[other].footprint_mib for other in set(ahead) if other != name)
    return all(other == name or victims.why_never(view, state, view.consumers[other]) for other in ahead) and (
        budget.committed_mib(view, device, besides=name) + state.footprint_mib + wanted <= total_mib
    )


def _wait(device: int, message: str) -> Decision:
    return Decision(Verdict.WAIT, device, error=Busy, message=message)


def _refuse(error: type[GpumandError], message: str, device: int | None = None) -> Decision:
    return Decision(Verdict.REFUSE, device, error=error, message=message)
