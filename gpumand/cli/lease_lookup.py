"""Finds the lease that a user means: by its id, by a unique prefix of the id, or by the name of its consumer."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from gpumand.bus.connection_errors import BusError
from gpumand.cli.client import Client
from gpumand.cli.errors import ExitCode, Failure, hint_for
from gpumand.cli.options import GlobalOptions, command_line
from gpumand.domain.errors import ERROR_PREFIX
from gpumand.domain.short_ids import short_id

T = TypeVar("T")
Entry = Mapping[str, Any]

NO_SUCH_LEASE = ERROR_PREFIX + "NoSuchLease"
MIN_PREFIX = 4
"""Characters of an id that a user has to give: shorter ones are more likely a typing error."""

_HEX = re.compile(r"[0-9a-f]+")


async def with_lease(
    client: Client, lease: str, command: Sequence[str], options: GlobalOptions, call: Callable[[str], Awaitable[T]]
) -> tuple[str, T]:
    """Call with the lease that the user means, and return its id and the result of the call.

    A complete id needs no status: the daemon is asked about the words of the user first.

    Args:
        client: a connection to the daemon.
        lease: what the user wrote.
        command: the words of the command without the lease, to show it with other leases.
        options: select the bus of the commands that are shown.
        call: the call, with the id of the lease.

    Raises:
        Failure: it is the name of a consumer, or the beginning of several ids; the choices are the leases it can mean.
        BusError: the call failed, or no lease is meant.
    """
    try:
        return lease, await call(lease)
    except BusError as error:
        if error.name != NO_SUCH_LEASE:
            raise
        resolved = _resolve(await client.status(), lease, error, command, options)
    return resolved, await call(resolved)


async def complete_id(client: Client, lease: str) -> str:
    """The id of the only active lease that begins with the text; otherwise the text, for the daemon to refuse."""
    if len(lease) < MIN_PREFIX:
        return lease
    ids = [str(one["id"]) for one in (await client.status())["leases"]]
    matches = [one for one in ids if one.startswith(lease.lower())]
    return matches[0] if len(matches) == 1 else lease


def _resolve(status: Entry, text: str, error: BusError, command: Sequence[str], options: GlobalOptions) -> str:
    """The id of the only lease whose id begins with the text. Raises Failure."""
    leases = status["leases"]
    if any(one["name"] == text for one in status["consumers"]):
        raise _not_a_lease(text, leases, command, options)
    prefix = text.lower()
    matches = [one for one in leases if _HEX.fullmatch(prefix) and str(one["id"]).startswith(prefix)]
    if len(text) < MIN_PREFIX and matches:
        line = f"'{text}' is too short for a lease id: give at least {MIN_PREFIX} characters of it"
        raise Failure(ExitCode.NO_SUCH, line + hint_for(NO_SUCH_LEASE, line))
    if not matches:
        raise error
    if len(matches) > 1:
        line = f"'{text}' is the beginning of {len(matches)} lease ids. Choose one:"
        raise Failure(ExitCode.FAILURE, line, _choices(matches, leases, command, options))
    return str(matches[0]["id"])


def _not_a_lease(consumer: str, leases: Sequence[Entry], command: Sequence[str], options: GlobalOptions) -> Failure:
    from gpumand.cli.render.format import count

    own = [one for one in leases if one["consumer"] == consumer]
    if not own:
        line = f"'{consumer}' is a consumer, not a lease, and it has no active lease"
        return Failure(ExitCode.NO_SUCH, line)
    line = f"'{consumer}' is a consumer, not a lease. It has {count(len(own), 'active lease')}:"
    return Failure(ExitCode.NO_SUCH, line, _choices(own, leases, command, options))


def _choices(
    shown: Sequence[Entry], leases: Sequence[Entry], command: Sequence[str], options: GlobalOptions
) -> list[str]:
    """Two lines for each lease: what it is, and the command for it."""
    from gpumand.cli.render.lines import lease_line

    now_usec, ids = time.time_ns() // 1000, [str(one["id"]) for one in leases]
    lines: list[str] = []
    for lease in shown:
        name = short_id(str(lease["id"]), ids)
        first, *rest = command
        lines += [f"  {name}: {lease_line(lease, now_usec)}", f"    {command_line(options, first, name, *rest)}"]
    return lines
