"""What is asked for: the options that ``acquire``, ``run``, ``plan`` and ``load`` share, and what they become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from gpumand.cli import completion
from gpumand.cli.durations import DURATION, to_usec
from gpumand.client.options import Options, acquire_options
from gpumand.domain.request import DEFAULT_TIMEOUT_SEC, MAX_PRIORITY, MAX_WAIT_SEC, MIN_PRIORITY

F = TypeVar("F", bound=Callable[..., Any])

priority_option = click.option(
    "--priority",
    type=click.IntRange(MIN_PRIORITY, MAX_PRIORITY),
    help=f"From {MIN_PRIORITY} to {MAX_PRIORITY}, higher first; default: the consumer's.",
)
device_option = click.option(
    "--device",
    default="",
    metavar="GPU",
    shell_complete=completion.devices,
    help="Index or UUID of the GPU; default: any.",
)
timeout_option = click.option(
    "--timeout", type=DURATION, metavar="TIME", help="How long to wait, for example 20s (the default) or 5min."
)


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """An Acquire as it was typed.

    Attributes:
        lifetime: "ttl", "connection" or "unit".
        ttl_sec: None = as configured.
        timeout_sec: how long to wait; 0 = now or not at all.
        priority: None = the consumer's.
        device, reason, token: "" = not given.
    """

    lifetime: str
    ttl_sec: float | None
    timeout_sec: float
    priority: int | None
    device: str
    reason: str
    token: str

    @classmethod
    def of(cls, lifetime: str, typed: Mapping[str, Any]) -> RequestOptions:
        """From the options of a command by their names. Raises click.UsageError."""
        ttl = typed.get("ttl")
        if ttl is not None and lifetime != "ttl":
            raise click.UsageError(f"--ttl goes with --lifetime ttl, not with {lifetime}")
        if ttl is not None and to_usec(ttl) == 0:
            raise click.UsageError("--ttl must be more than 0")
        timeout_sec = timeout_of(typed["timeout"], typed["patience"])
        token = typed.get("token", "")
        return cls(lifetime, ttl, timeout_sec, typed["priority"], typed["device"], typed["reason"], token)

    def options(self) -> Options:
        """As the bus takes it; what was not given is left to the daemon."""
        texts = {"device": self.device, "reason": self.reason, "token": self.token}
        return acquire_options(self.lifetime, self.timeout_sec, ttl_sec=self.ttl_sec, priority=self.priority, **texts)


def waiting_options(command: F) -> F:
    """``--timeout``, ``--no-wait``, ``--wait``."""
    wait = click.option("--wait", "patience", flag_value="wait", help="Wait as long as it takes (a day at most).")
    no_wait = click.option("--no-wait", "patience", flag_value="no-wait", help="Now or not at all.")
    return timeout_option(no_wait(wait(command)))


def asking_options(command: F) -> F:
    """Who asks, where, how urgently."""
    reason = click.option("--reason", default="", metavar="TEXT", help="What it is for; shown in the status.")
    return priority_option(device_option(reason(command)))


def timeout_of(timeout: float | None, patience: str | None) -> float:
    """How long to wait, from the three ways to say it.

    Raises:
        click.UsageError: for two of them at once.
    """
    if timeout is not None and patience is not None:
        raise click.UsageError(f"--timeout and --{patience} exclude each other")
    if patience is not None:
        return MAX_WAIT_SEC if patience == "wait" else 0.0
    if timeout is None:
        return DEFAULT_TIMEOUT_SEC
    return min(timeout, MAX_WAIT_SEC)
