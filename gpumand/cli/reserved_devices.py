"""The environment of a command that runs with a reservation: on which GPUs its VRAM is reserved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gpumand.bus.connection_errors import BusError
from gpumand.cli.client import Client

DEVICE_VARIABLE = "GPUMAND_DEVICE"
CUDA_VARIABLE = "CUDA_VISIBLE_DEVICES"

CUDA_UUIDS = ("GPU-", "MIG-")
"""Beginnings of the UUIDs that CUDA understands; other sources of readings have UUIDs of their own."""


async def reserved_devices(client: Client, grant: Mapping[str, Any]) -> dict[str, str]:
    """Variables that keep a command on the GPUs of its reservation.

    CUDA numbers the GPUs of a host in an order of its own, so they are given by UUID. A selection that the caller has
    made is kept.

    Args:
        client: a connection to the daemon.
        grant: the answer of Acquire.
    """
    device = str(grant.get("device") or "")
    variables = {DEVICE_VARIABLE: device} if device else {}
    if not device or CUDA_VARIABLE in os.environ:
        return variables
    try:
        status = await client.status()
    except BusError:
        return variables  # the daemon left the bus after the grant; the lease stands all the same
    uuids = {str(one["index"]): str(one.get("uuid") or "") for one in status["devices"]}
    ours = [uuids.get(index, "") for index in device.split(",")]
    return variables | ({CUDA_VARIABLE: ",".join(ours)} if all(one.startswith(CUDA_UUIDS) for one in ours) else {})
