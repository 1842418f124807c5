"""The options that every way to acquire a lease takes, and their conversion to a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from gpumand.client.nesting import nesting_options
from gpumand.client.options import Options, acquire_options, checked_request, restore_option, wait_sec

DEFAULT_WAIT_SEC = 60.0
"""Default time that a program waits for a grant, in seconds.

The daemon's own default of 20 s is for shell tools that give up on a call after 25 s.
"""


class LeaseOptions(TypedDict, total=False):
    """The keyword arguments of ``lease``, ``lease_sync``, and the methods ``lease`` and ``acquire`` of the clients.

    All are optional.

    Attributes:
        vram_mib: MiB to reserve, without a consumer; None = not given.
        all: reserve the whole GPU, without a consumer: everything that may go is evicted, and nothing else is loaded.
        timeout_sec: seconds to wait; 0 = do not wait, None = no limit (a day at most). The default is 60.
        priority: -100 to 100, higher is served first; None = the consumer's priority.
        device: index, UUID or PCI address of the GPU; "" = any that fits.
        reason: purpose of the lease; shown in the status.
        restore: load the consumer again, once for each loss, when it loses its model or its process during the lease.
        exclusive: lease nothing else on the GPU while this lease is active; it waits until no other lease is.
        yield_lease: id of a lease of the same user that is given back for the time of this one: its consumer may be
            unloaded, and is loaded again when the block ends, before the code after the block runs.
        on_behalf: for a service: the user and host for which it makes the request, such as "alice@gpu2"; rules of
            polkit can use it.
    """

    vram_mib: int | None
    all: bool
    timeout_sec: float | None
    priority: int | None
    device: str
    reason: str
    restore: bool
    exclusive: bool
    yield_lease: str
    on_behalf: str


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """A checked call of Acquire.

    Attributes:
        consumer: name of the consumer; "" for a reservation.
        options: its D-Bus options.
        timeout_sec: seconds that it may wait.
        yield_lease: id of the lease that is given back for it; "" = none.
    """

    consumer: str
    options: Options
    timeout_sec: float
    yield_lease: str


def lease_request(
    consumer: str,
    lifetime: str,
    options: LeaseOptions,
    *,
    within: Sequence[str],
    ttl_sec: float | None = None,
    token: str = "",
) -> LeaseRequest:
    """Convert the options of a lease to a call of Acquire.

    Args:
        consumer: name of the consumer; "" to reserve VRAM without one.
        lifetime: "ttl", "connection" or "unit".
        options: the options that were given.
        within: ids of leases that the caller keeps until the request is answered.
        ttl_sec: time to live in seconds for "ttl"; None = as configured.
        token: idempotency token; "" = none.

    Raises:
        InvalidArgs: an option is out of range.
        TypeError: there is no option of this name.
    """
    # A caller without a type checker must not lose a misspelt option silently.
    if unknown := options.keys() - LeaseOptions.__optional_keys__:
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}: a lease has no such option")
    wait = wait_sec(options.get("timeout_sec", DEFAULT_WAIT_SEC))
    consumer, reserved = checked_request(consumer, options.get("vram_mib"), options.get("all", False))
    texts = {"device": options.get("device", ""), "reason": options.get("reason", ""), "token": token}
    texts["on_behalf"] = options.get("on_behalf", "")
    call = acquire_options(lifetime, wait, ttl_sec=ttl_sec, priority=options.get("priority"), **texts) | reserved
    call |= restore_option(options.get("restore", False))
    yielded = options.get("yield_lease", "")
    call |= nesting_options(options.get("exclusive", False), yielded, within)
    return LeaseRequest(consumer, call, wait, yielded)
