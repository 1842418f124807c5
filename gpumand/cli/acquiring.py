"""Acquires a lease for a command, and shows what the request waits for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gpumand.cli.acquire_options import AcquireOptions
from gpumand.cli.client import Client
from gpumand.cli.lease_lookup import complete_id
from gpumand.cli.options import GlobalOptions
from gpumand.cli.progress import with_progress


async def acquire_lease(
    client: Client, consumer: str, request: AcquireOptions, options: GlobalOptions
) -> tuple[str, dict[str, Any], AcquireOptions]:
    """Acquire a lease, showing what it waits for.

    Args:
        client: a connection to the daemon.
        consumer: the consumer; "" for a reservation.
        request: options of the call.
        options: the shared options.

    Returns:
        The id of the lease, the grant, and the options with the complete id of ``--yield``.
    """
    if request.yield_lease:
        request = replace(request, yield_lease=await complete_id(client, request.yield_lease))
    call = client.acquire(consumer, request.options(), request.timeout_sec)
    lease, grant = await with_progress(client, consumer, call, options)
    return lease, grant, request
