"""What happens when something fails: each fault is caused on a real daemon, and its outcome is checked.

The same daemon goes through all of them. ``docs/guide/what-happens.md`` has the table.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gpumand.client import GpumandError, InsufficientVram, LoadFailed
from gpumand.client.values import Grant
from gpumand.demo.fault_host import (
    BROKEN,
    CHAT,
    IMAGE,
    LATE,
    LATE_SEC,
    LIAR,
    FaultHost,
    FaultyService,
    NotSeen,
    check,
    wait_until,
)
from gpumand.demo.screen import Screen

WAIT_SEC = 60.0
FOREIGN_MIB = 12000


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        title: what fails.
        expected: what gpumand does.
        cause: causes it, checks what gpumand does, and returns what was seen. Raises NotSeen.
    """

    title: str
    expected: str
    cause: Callable[[FaultHost], Awaitable[str]]


async def show_faults(screen: Screen) -> int:
    """Cause every fault and print what was expected and seen; returns 1 if one of them had another outcome."""
    began = time.monotonic()
    screen.title("Seven faults, one daemon, a simulated GPU of 24.0 GiB on which two services do not fit.")
    async with FaultHost() as host:
        outcomes = [await _show(screen, number, fault, host) for number, fault in enumerate(FAULTS, 1)]
    took = f"{time.monotonic() - began:.0f} s"
    if not all(outcomes):
        screen.title(f"{outcomes.count(False)} of {len(FAULTS)} faults had another outcome, in {took}.")
        return 1
    screen.title(f"All {len(FAULTS)} faults had the expected outcome, in {took}. Nothing is left running.")
    return 0


async def _show(screen: Screen, number: int, fault: Fault, host: FaultHost) -> bool:
    screen.heading(number, fault.title)
    screen.fact("expected: ", fault.expected)
    try:
        seen = await fault.cause(host)
        await host.reset()
    except (NotSeen, GpumandError) as error:
        screen.check_failed(f"{error}")
        return False
    screen.fact("seen:     ", seen)
    return True


# -- memory ---------------------------------------------------------------------------------------------------------


async def late_free(host: FaultHost) -> str:
    """A server answers its unload request at once and frees its memory later."""
    await _use(host, LATE)
    grant = await _acquire(host, CHAT)
    check(grant.evicted == (LATE.name,), f"{LATE.name} is evicted", grant.evicted)
    (freed,), (called,) = await host.times(LATE, "freed"), await host.times(CHAT, "load-called")
    (asked,) = await host.times(LATE, "unload-called")
    check(freed - asked > LATE_SEC / 2, f"{LATE.name} frees its memory late", f"{freed - asked:.1f} s")
    check(called >= freed, "the load begins after the memory is free", f"{called - freed:.2f} s after")
    await _check_no_oom(host, CHAT, LATE)
    return (
        f"{CHAT.name} was loaded {called - freed:.1f} s after the memory was free, {grant.waited_sec:.1f} s in all. "
        "No out-of-memory error."
    )


async def lying_unload(host: FaultHost) -> str:
    """A server answers its unload request with success and frees nothing."""
    await _use(host, LIAR)
    grant = await _acquire(host, CHAT)
    eviction = (await host.client.history(consumer=LIAR.name, kinds=("eviction",), limit=1))[0]
    check(eviction.method == "unit-stop", f"{LIAR.unit} is stopped", eviction)
    check(eviction.freed_mib == LIAR.mib, f"{LIAR.mib} MiB are freed", eviction)
    await _check_no_oom(host, CHAT)
    return (
        f"the GPU showed no change, so {LIAR.unit} was stopped: {LIAR.mib} MiB free. "
        f"{CHAT.name} was granted after {grant.waited_sec:.1f} s."
    )


async def foreign_process(host: FaultHost) -> str:
    """A process that belongs to no consumer holds half of the memory."""
    async with host.foreign_process("render-job", FOREIGN_MIB) as process:
        await wait_until("the daemon reads the process's memory", lambda: _is_foreign_seen(host))
        began = time.monotonic()
        error = await _error(host, CHAT)
        took = time.monotonic() - began
        check(isinstance(error, InsufficientVram), "the request is refused", error)
        check(f"pid {process.pid}" in f"{error}", f"the error names process {process.pid}", error)
        check(await host.residency(CHAT) != "resident", f"{CHAT.name} is not loaded", "resident")
    return f"refused after {took:.1f} s: {error}"


# -- services -------------------------------------------------------------------------------------------------------


async def crash_at_start(host: FaultHost) -> str:
    """The process of a service ends right after its start."""
    began = time.monotonic()
    error = await _error(host, BROKEN)
    took = time.monotonic() - began
    check(isinstance(error, LoadFailed), "the load fails", error)
    check(took < WAIT_SEC / 2, "the error arrives long before the timeout", f"{took:.1f} s")
    grant = await _acquire(host, CHAT)
    return f"LoadFailed after {took:.1f} s; the next request, for {CHAT.name}, granted after {grant.waited_sec:.1f} s."


async def stopped_by_hand(host: FaultHost) -> str:
    """An administrator stops the unit of a loaded service."""
    await _use(host, CHAT)
    await host.stop_unit(CHAT)
    grant = await _acquire(host, CHAT)
    health = await host.health(CHAT)
    check(health["model_loaded"], f"{CHAT.name} is loaded again", health)
    return f"{CHAT.unit} was started again for the next request, which was granted after {grant.waited_sec:.1f} s."


# -- clients and the daemon -----------------------------------------------------------------------------------------


async def client_gone(host: FaultHost) -> str:
    """A client is killed while its request waits for the end of another lease."""
    held = await _acquire(host, CHAT)
    waiting = await host.start_command("run", IMAGE.name, "--timeout", "60", "--", "true")
    await wait_until("the request waits", lambda: _is_queue_length(host, 1))
    waiting.kill()
    await waiting.wait()
    await wait_until("the request is withdrawn", lambda: _is_queue_length(host, 0))
    await host.client.release(held.id)
    grant = await _acquire(host, CHAT)  # a request after the lease has ended: the queue has been decided
    loads = await host.client.history(consumer=IMAGE.name, kinds=("load", "load-failed"), limit=1)
    check(not loads and not grant.loaded, f"{CHAT.name} stays and {IMAGE.name} is not loaded", loads or grant)
    return f"the request left the queue. {IMAGE.name} was not loaded, and {CHAT.name} was not evicted."


async def killed_daemon(host: FaultHost) -> str:
    """The daemon is killed with SIGKILL in the middle of a swap."""
    await _use(host, CHAT)
    call = asyncio.create_task(_hold(host, IMAGE))
    await wait_until(f"{IMAGE.name} is loading", lambda: _is_residency(host, IMAGE, "loading"))
    began = time.monotonic()
    await host.kill_daemon()
    waited = time.monotonic() - began
    await call
    took = time.monotonic() - began
    loads = await host.times(IMAGE, "loaded")
    check(len(loads) == 1, f"{IMAGE.name} is loaded once", f"{len(loads)} loads")
    await _check_no_oom(host, IMAGE)
    return (
        f"the daemon was back after {waited:.1f} s, the same call was granted after {took:.1f} s, "
        f"and {IMAGE.name} was loaded once."
    )


FAULTS = (
    Fault(
        f"A server frees its memory {LATE_SEC:g} s after it has answered its unload request",
        "the next model is loaded when the GPU shows the memory as free",
        late_free,
    ),
    Fault(
        "A server answers its unload request with success and frees nothing",
        "the answer is checked on the GPU, and the unit of the server is stopped",
        lying_unload,
    ),
    Fault(
        "A process that is no consumer holds the memory",
        "the request is refused at once, with the process and its memory",
        foreign_process,
    ),
    Fault(
        "A service crashes at its start",
        "its request fails at once, and other requests are served",
        crash_at_start,
    ),
    Fault("A service is stopped by hand", "it is started again for the next request", stopped_by_hand),
    Fault("A client is killed while it waits", "nothing is evicted or loaded for it", client_gone),
    Fault(
        "The daemon is killed with SIGKILL in the middle of a swap",
        "the waiting call is granted after the restart, with one load",
        killed_daemon,
    ),
)


# -- parts of the faults ----------------------------------------------------------------------------------------------


async def _acquire(host: FaultHost, service: FaultyService) -> Grant:
    return await host.client.acquire(service.name, timeout_sec=WAIT_SEC, ttl_sec=4 * WAIT_SEC, reason="demonstration")


async def _use(host: FaultHost, service: FaultyService) -> None:
    """Have a service loaded and leave it without a lease."""
    await host.client.release((await _acquire(host, service)).id)


async def _hold(host: FaultHost, service: FaultyService) -> None:
    async with host.client.lease(service.name, timeout_sec=2 * WAIT_SEC, reason="demonstration"):
        pass


async def _error(host: FaultHost, service: FaultyService) -> GpumandError:
    """The error of a request. Raises NotSeen if it is granted."""
    try:
        grant = await _acquire(host, service)
    except GpumandError as error:
        return error
    raise NotSeen(f"the request for {service.name} was granted: {grant}")


async def _check_no_oom(host: FaultHost, *services: FaultyService) -> None:
    for service in services:
        health = await host.health(service)
        check(health["oom"] == 0, f"{service.name} has no out-of-memory error", health)


async def _is_foreign_seen(host: FaultHost) -> bool:
    return (await host.client.status()).devices[0].foreign_mib == FOREIGN_MIB


async def _is_queue_length(host: FaultHost, length: int) -> bool:
    return len((await host.client.status()).queue) == length


async def _is_residency(host: FaultHost, service: FaultyService, residency: str) -> bool:
    return await host.residency(service) == residency
