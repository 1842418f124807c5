"""Options that ``acquire``, ``run``, ``plan`` and ``load`` share, and their translation to D-Bus options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from gpumand.cli import completion
from gpumand.cli.durations import DURATION, to_usec
from gpumand.cli.sizes import SIZE
from gpumand.client.options import Options, acquire_options, restore_option, vram_options
from gpumand.domain.request import DEFAULT_TIMEOUT_SEC
from gpumand.domain.request_limits import MAX_PRIORITY, MAX_WAIT_SEC, MIN_PRIORITY

F = TypeVar("F", bound=Callable[..., Any])

priority_option = click.option(
    "--priority",
    type=click.IntRange(MIN_PRIORITY, MAX_PRIORITY),
    help=f"Priority of the request, {MIN_PRIORITY} to {MAX_PRIORITY}; higher is served first. Default: the consumer's.",
)
device_option = click.option(
    "--device",
    default="",
    metavar="GPU",
    shell_complete=completion.devices,
    help="Index or UUID of the GPU. Default: any GPU.",
)
vram_option = click.option(
    "--vram", type=SIZE, metavar="SIZE", help="Reserve this much VRAM, without a consumer: 12G, 12GiB or 12288M."
)
all_option = click.option(
    "--all", "whole", is_flag=True, help="Reserve the whole GPU, without a consumer: evict everything that may go."
)
on_option = click.option("--on", default="", metavar="HOST", help="With --fleet: the host that must serve the request.")
restore_flag = click.option(
    "--restore",
    is_flag=True,
    help="Load CONSUMER again, once for each loss, when it loses its model or its process during the lease.",
)
timeout_option = click.option(
    "--timeout", type=DURATION, metavar="TIME", help="Maximum waiting time, for example 20s (the default) or 5min."
)


@dataclass(frozen=True, slots=True)
class AcquireOptions:
    """The options of an Acquire call, as given on the command line.

    Attributes:
        lifetime: "ttl", "connection" or "unit".
        ttl_sec: how long the lease lasts, in seconds; None = as configured.
        timeout_sec: maximum waiting time in seconds; 0 = do not wait.
        priority: None = the consumer's default.
        device, reason, token: "" = not given.
        vram_mib: MiB to reserve without a consumer; None = not given.
        whole: reserve the whole GPU without a consumer.
        restore: load the consumer again when it is lost during the lease.
        exclusive: lease nothing else on the device.
        yield_lease: id of the lease to give back meanwhile, or the beginning of it; "" = none.
    """

    lifetime: str
    ttl_sec: float | None
    timeout_sec: float
    priority: int | None
    device: str
    reason: str
    token: str
    vram_mib: int | None = None
    whole: bool = False
    restore: bool = False
    exclusive: bool = False
    yield_lease: str = ""

    @classmethod
    def from_arguments(cls, lifetime: str, arguments: Mapping[str, Any]) -> AcquireOptions:
        """Build them from the parsed options of a command, by option name.

        Raises:
            click.UsageError: for options that exclude each other.
        """
        ttl = arguments.get("ttl")
        if ttl is not None and lifetime != "ttl":
            raise click.UsageError(f"--ttl requires --lifetime ttl, not {lifetime}")
        if ttl is not None and to_usec(ttl) == 0:
            raise click.UsageError("--ttl must be more than 0")
        timeout_sec = resolve_timeout(arguments["timeout"], arguments["wait_mode"])
        token = arguments.get("token", "")
        priority, device, reason = arguments["priority"], arguments["device"], arguments["reason"]
        reserved = {"vram_mib": arguments.get("vram"), "whole": arguments.get("whole", False)}
        reserved["restore"] = arguments.get("restore", False)
        nesting = {"exclusive": arguments.get("exclusive", False), "yield_lease": arguments.get("yield_lease", "")}
        return cls(lifetime, ttl, timeout_sec, priority, device, reason, token, **reserved, **nesting)

    def options(self) -> Options:
        """The D-Bus options; those that were not given are left out, so that the daemon uses its defaults."""
        texts = {"device": self.device, "reason": self.reason, "token": self.token}
        ttl_sec, priority = self.ttl_sec, self.priority
        options = acquire_options(self.lifetime, self.timeout_sec, ttl_sec=ttl_sec, priority=priority, **texts)
        options |= vram_options(self.vram_mib, self.whole) | restore_option(self.restore)
        from gpumand.client.nesting import enclosing_leases, nesting_options

        return options | nesting_options(self.exclusive, self.yield_lease, enclosing_leases())


def nested_lease_options(command: F) -> F:
    """Add ``--exclusive`` and ``--yield`` to a command."""
    exclusive = click.option(
        "--exclusive", is_flag=True, help="Lease nothing else on the GPU while the lease is active."
    )
    yielding = click.option(
        "--yield",
        "yield_lease",
        default="",
        metavar="LEASE",
        shell_complete=completion.leases,
        help="Give the consumer of LEASE back while the new lease is active, and load it again afterwards.",
    )
    return exclusive(yielding(command))


def vram_reservation_options(command: F) -> F:
    """Add ``--vram`` and ``--all`` to a command."""
    return vram_option(all_option(command))


def check_consumer_or_vram(consumer: str | None, vram: int | None, whole: bool) -> str:
    """The requested consumer, "" for a reservation.

    Raises:
        click.UsageError: not exactly one of a consumer, ``--vram`` and ``--all`` was given.
    """
    given = [name for name, is_given in (("CONSUMER", consumer), ("--vram", vram), ("--all", whole)) if is_given]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} exclude each other; give only one of them")
    if not given:
        raise click.UsageError("give a CONSUMER, or --vram SIZE or --all to reserve VRAM without one")
    return consumer or ""


def require_fleet(on: str) -> None:
    """Raise UsageError if a host was named without ``--fleet``."""
    if on:
        raise click.UsageError("--on needs --fleet: without it, the command is for this host")


def waiting_options(command: F) -> F:
    """Add ``--timeout``, ``--no-wait`` and ``--wait`` to a command."""
    wait = click.option("--wait", "wait_mode", flag_value="wait", help="Wait without a timeout (at most one day).")
    no_wait = click.option("--no-wait", "wait_mode", flag_value="no-wait", help="Fail at once instead of waiting.")
    return timeout_option(no_wait(wait(command)))


def request_options(command: F) -> F:
    """Add ``--priority``, ``--device`` and ``--reason`` to a command."""
    reason = click.option("--reason", default="", metavar="TEXT", help="Purpose of the lease, shown in the status.")
    return priority_option(device_option(reason(command)))


def resolve_timeout(timeout: float | None, wait_mode: str | None) -> float:
    """The maximum waiting time in seconds, from ``--timeout``, ``--wait`` and ``--no-wait``.

    Args:
        timeout: the value of ``--timeout`` in seconds, or None.
        wait_mode: "wait", "no-wait" or None.

    Raises:
        click.UsageError: more than one of them was given.
    """
    if timeout is not None and wait_mode is not None:
        raise click.UsageError(f"--timeout and --{wait_mode} exclude each other; give only one of them")
    if wait_mode is not None:
        return MAX_WAIT_SEC if wait_mode == "wait" else 0.0
    if timeout is None:
        return DEFAULT_TIMEOUT_SEC
    return min(timeout, MAX_WAIT_SEC)
