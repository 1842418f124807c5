#!/usr/bin/env python3
"""A job for a GPU service that shares its card, in plain Python: python3 job_sync.py comfyui.

The same works in a notebook, where a loop runs already, and in threads.
"""

import sys
import urllib.request

from gpumand.client import CallerError, GpumandError, HostError, NotNowError, lease_sync


def work(endpoint: str) -> None:
    """Stands for what your job does with the service."""
    with urllib.request.urlopen(f"{endpoint}/system_stats", timeout=30) as answer:
        print(f"{endpoint} answers {answer.status}")


def main() -> int:
    """Work under a lease; an exit status that says who must act."""
    consumer = sys.argv[1] if len(sys.argv) > 1 else "comfyui"
    try:
        # Entering makes the service resident, evicting others where it must. While the block runs nobody evicts it.
        # Leaving gives the lease back, and so does the end of this process, however it ends.
        with lease_sync(consumer, timeout_sec=300, reason="job_sync.py") as held:
            made_room = f", for which {', '.join(held.evicted)} had to go" if held.evicted else ""
            print(f"{consumer} is ours after {held.waited_sec:.1f} s{made_room}")
            work(held.endpoint)
    except NotNowError as error:  # Busy, TimedOut, ...: the same call may succeed later
        print(f"not now: {error}", file=sys.stderr)
        return 75  # EX_TEMPFAIL
    except HostError as error:  # InsufficientVram, LoadFailed, NotRunning, ...: somebody must look at the host
        print(f"look at the host: {error}", file=sys.stderr)
        return 1
    except CallerError as error:  # NoSuchConsumer, AccessDenied, ...: this program must ask differently
        print(f"wrong question: {error}", file=sys.stderr)
        return 2
    except GpumandError as error:  # whatever a later gpumand may add
        print(f"{error.dbus_name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
