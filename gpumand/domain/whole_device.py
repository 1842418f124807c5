"""Clears devices for a reservation of everything on them: every consumer that may go is evicted.

Consumers that are leased, loading or at work are waited for. Consumers that may not be evicted (pinned, managing their
own VRAM, without a method) and foreign processes stay, and the message names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpumand.domain import decision_messages, parking, victims
from gpumand.domain.decision import Decision, refuse
from gpumand.domain.device import Devices
from gpumand.domain.errors import Busy, EvictionFailed
from gpumand.domain.leases_in_the_way import wait_for_leases
from gpumand.domain.request import Verdict
from gpumand.domain.view import ConsumerState, View
from gpumand.domain.wording import describe_holders, format_mib


def clear(view: View, state: ConsumerState, place: Devices) -> Decision:
    """Decide whether the devices are clear for a reservation of all of them, and what must go or be waited for.

    The number of evictions is not limited by ``max_evictions``: the request is for everything that can be had.

    Args:
        view: everything at this moment.
        state: the reservation.
        place: its devices.
    """
    return replace(
        _refuse_busy(view, state, place)
        or _wait_for_users(view, state, place)
        or _refuse_failed(view, place)
        or _evict_all(view, state, place),
        free_mib=_free_mib(view, place),
        needs_fresh_sample=any(view.devices[device].is_measured for device in place),
    )


def _refuse_busy(view: View, state: ConsumerState, place: Devices) -> Decision | None:
    abandoned = victims.busy_past_grace(view, place, state)
    if not abandoned:
        return None
    return refuse(Busy, decision_messages.busy_past_grace(abandoned, f"{state.name} needs the whole device"), place)


def _wait_for_users(view: View, state: ConsumerState, place: Devices) -> Decision | None:
    """Wait for everything that is in use there, also for leases on consumers that will never be evicted."""
    blockers = victims.temporarily_exempt(view, place, state)
    busy = [one for one in blockers if victims.is_only_busy(view, one)]
    claimants = [one for one in view.consumers_on(place) if _is_promised(view, one) and one.name != state.name]
    in_turn = [one for one in blockers if victims.only_has_turn(view, one)]
    in_use = {one.name: one for one in (*blockers, *claimants) if one not in busy and one not in in_turn}
    if not in_use and not busy and not in_turn:
        return None
    message = decision_messages.blockers(view, list(in_use.values()), busy, in_turn, place)
    return replace(
        wait_for_leases(view, place, message, list(in_use.values())),
        busy=tuple(one.name for one in busy),
        retry_at=victims.first_turn_end(view, in_turn),
    )


def _is_promised(view: View, state: ConsumerState) -> bool:
    """Whether memory there is reserved for it, other than merely because its last request may still load the model."""
    return state.claimed and bool(state.devices) and not view.may_be_reclaimed(state)


def _refuse_failed(view: View, place: Devices) -> Decision | None:
    failed = sorted(name for name in view.evict_failed if _holds(view, name, place))
    if not failed:
        return None
    return refuse(EvictionFailed, decision_messages.eviction_without_effect(failed, _what_stays(view, place)), place)


def _holds(view: View, name: str, place: Devices) -> bool:
    return any(view.devices[device].held_by(name) for device in place)


def _evict_all(view: View, state: ConsumerState, place: Devices) -> Decision:
    choice = _choose_all(view, state, place)
    victim_devices = {device for one in choice.victims for device in view.consumers[one.consumer].devices}
    return Decision(
        Verdict.GRANT,
        place,
        resident=not choice.victims,
        load=bool(choice.victims),
        evictions=choice.victims,
        spared=choice.spared,
        message=_what_stays(view, place),
        cost=choice.cost,
        extra_devices=tuple(sorted(victim_devices.intersection(view.devices).difference(place))),
    )


def _choose_all(view: View, state: ConsumerState, place: Devices) -> victims.Choice:
    """All consumers that can be evicted, as a choice of victims; those that host RAM has no room to park stay."""
    candidates = victims.candidates(view, place, state)
    while True:
        # What all of them can free, with their units stopped where that frees more: no smaller choice suffices.
        stopped = victims.freeing_more_when_stopped(candidates)
        short_mib = {device: _freeable_mib(view, device, candidates, stopped) for device in place}
        choice = parking.choose(view, place, state, short_mib, len(view.consumers))
        stuck = {one.consumer for one in choice.spared if one.why == parking.NO_HOST_RAM}
        evictable = [one for one in candidates if one.name not in stuck]
        if choice.suffices or len(evictable) == len(candidates):
            return choice
        candidates = evictable


def _freeable_mib(view: View, device: int, states: Sequence[ConsumerState], stopped: frozenset[str]) -> int:
    there = [one for one in states if view.is_on(one, device)]
    return sum(victims.freeable_by_consumer(view, device, there, stopped).values())


def _free_mib(view: View, place: Devices) -> int | None:
    known = [view.devices[device].free_mib for device in place]
    return min((mib for mib in known if mib is not None), default=None)


def _what_stays(view: View, place: Devices) -> str:
    """What is free on the devices, and what holds the rest, in one line."""
    parts = []
    for device in place:
        free_mib = view.devices[device].free_mib
        free = "an unknown amount" if free_mib is None else format_mib(free_mib)
        parts.append(f"device {device}: {free} free, held: {describe_holders(view, device)}")
    return "; ".join(parts)
