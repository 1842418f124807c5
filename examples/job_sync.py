#!/usr/bin/env python3
"""A job that uses a GPU service under a lease, in synchronous Python: python3 job_sync.py comfyui.

The same code works in threads, and in a notebook, where an event loop is already running.
"""

import sys
import urllib.request

from gpumand.client import CallerError, GpumandError, HostError, NotNowError, lease_sync


def work(endpoint: str) -> None:
    """Replace this with the work of your job."""
    with urllib.request.urlopen(f"{endpoint}/system_stats", timeout=30) as answer:
        print(f"{endpoint} answers {answer.status}")


def main() -> int:
    """Work under a lease; the exit status distinguishes temporary failures (75) from others."""
    consumer = sys.argv[1] if len(sys.argv) > 1 else "comfyui"
    try:
        # Entering the block loads the service, evicting others if needed. It is not evicted while the block runs. The
        # lease ends with the block, or with this process, also if it crashes.
        with lease_sync(consumer, timeout_sec=300, reason="job_sync.py") as held:
            evicted = f", evicted: {', '.join(held.evicted)}" if held.evicted else ""
            print(f"leased {consumer} after {held.waited_sec:.1f} s{evicted}")
            work(held.endpoint)
    except NotNowError as error:  # Busy, TimedOut, ...: the same request may succeed later
        print(f"try again later: {error}", file=sys.stderr)
        return 75  # EX_TEMPFAIL
    except HostError as error:  # InsufficientVram, LoadFailed, NotRunning, ...: check the host
        print(f"check the host: {error}", file=sys.stderr)
        return 1
    except CallerError as error:  # NoSuchConsumer, AccessDenied, ...: fix the request
        print(f"invalid request: {error}", file=sys.stderr)
        return 2
    except GpumandError as error:  # errors that a later version of gpumand may add
        print(f"{error.dbus_name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
