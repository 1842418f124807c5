#!/usr/bin/env python3
"""A job that uses a GPU service under a lease, with asyncio: python3 job_async.py comfyui [SECONDS].

A lease can be lost: an administrator evicts the service by force, or the bus connection breaks. Most jobs may ignore
that and fail only if the service fails. This job must not work without a lease, so it stops when the lease is lost.
"""

import asyncio
import sys

from gpumand.client import Client, GpumandError, lease


async def work(seconds: float) -> None:
    """Replace this with the work of your job."""
    await asyncio.sleep(seconds)


async def run(consumer: str, seconds: float) -> int:
    """Work for as long as the lease is active; returns the exit status."""
    async with lease(consumer, timeout_sec=300, reason="job_async.py") as held:
        print(f"working with {consumer} at {held.endpoint}", flush=True)
        working = asyncio.create_task(work(seconds))
        losing = asyncio.create_task(held.ended.wait())
        await asyncio.wait({working, losing}, return_when=asyncio.FIRST_COMPLETED)
        losing.cancel()
        if not working.done():
            working.cancel()
            print(f"stopped: the lease on {consumer} was lost ({held.ended.reason})", file=sys.stderr)
            return 1
        await working  # raises the exception of the work, if any
    return 0


async def print_active_leases() -> None:
    """Print the active leases, which may be the reason of a failure."""
    async with Client() as client:
        for one in (await client.status()).leases:
            print(f"{one.consumer} is leased by {one.owner} ({one.reason or 'no reason given'})", file=sys.stderr)


async def main() -> int:
    """Run the job; if the lease is refused, print the reason and the active leases."""
    consumer = sys.argv[1] if len(sys.argv) > 1 else "comfyui"
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    try:
        return await run(consumer, seconds)
    except GpumandError as error:
        print(f"no lease on {consumer}: {error}", file=sys.stderr)
        await print_active_leases()
        return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
