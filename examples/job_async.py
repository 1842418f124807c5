#!/usr/bin/env python3
"""A job for a GPU service that shares its card, with async: python3 job_async.py comfyui [SECONDS].

A lease may be taken away: somebody evicts the service by force, or the bus breaks. Most jobs just go on, and fail or
not with the service. This one must not work without a lease, so it watches it beside its work.
"""

import asyncio
import sys

from gpumand.client import Client, GpumandError, lease


async def work(seconds: float) -> None:
    """Stands for what your job does with the service."""
    await asyncio.sleep(seconds)


async def run(consumer: str, seconds: float) -> int:
    """Work under a lease for as long as it stands; the exit status."""
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
        await working  # raises what went wrong in it
    return 0


async def tell_who_is_in_the_way() -> None:
    """Whoever holds leases now, for the person who reads the failure."""
    async with Client() as client:
        for one in (await client.status()).leases:
            print(f"{one.consumer} is held by {one.owner} ({one.reason or 'no reason given'})", file=sys.stderr)


async def main() -> int:
    """Run the job; where it cannot, say why and who is in the way."""
    consumer = sys.argv[1] if len(sys.argv) > 1 else "comfyui"
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    try:
        return await run(consumer, seconds)
    except GpumandError as error:
        print(f"no lease on {consumer}: {error}", file=sys.stderr)
        await tell_who_is_in_the_way()
        return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
