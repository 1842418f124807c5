"""The synchronous client: in scripts, threads, a running event loop, after a fork, and on Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpumand.client import BusUnavailable, Busy, NoSuchConsumer, NotRunning, SyncClient, lease_sync
from gpumand.client.values import Eviction, LeaseGranted
from gpumand.testing.bus import PrivateBus
from gpumand.testing.daemon import PrivateGpumand

DEADLINE_SEC = 40.0


def await_queue(client: SyncClient, length: int) -> None:
    """Wait until the given number of requests waits."""
    deadline = time.monotonic() + DEADLINE_SEC
    while len(client.status().queue) != length:
        assert time.monotonic() < deadline, f"the queue never had {length} requests"
        time.sleep(0.02)


def run(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SEC, check=False)


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "gpumand-client"]


def test_block_holds_a_lease_and_leaves_nothing_behind(gpumand: PrivateGpumand) -> None:
    with SyncClient(gpumand.address) as client:
        with lease_sync("comfyui", reason="poster", bus=gpumand.address) as held:
            (active,) = client.status().leases
            assert (active.id, active.reason) == (held.id, "poster")
            assert held.endpoint == gpumand.urls["comfyui"]
            assert not held.ended.is_set()
            assert held.ended.wait(0.01) == ""
        assert client.status().leases == ()
        assert held.ended.reason == "released"
        held.release()  # may be repeated, also after the block
    assert own_threads() == []


def test_errors_are_raised_and_leave_nothing_behind(gpumand: PrivateGpumand, bus: PrivateBus) -> None:
    with pytest.raises(NoSuchConsumer), lease_sync("comfy", bus=gpumand.address):
        pass
    with pytest.raises(ZeroDivisionError), lease_sync("comfyui", bus=gpumand.address):
        raise ZeroDivisionError
    with pytest.raises(NotRunning), lease_sync("comfyui", bus=bus.address):
        pass
    with pytest.raises(BusUnavailable), SyncClient("unix:path=/nonexistent/bus"):
        pass
    assert own_threads() == []


def test_every_call_works_without_await(gpumand: PrivateGpumand) -> None:
    with SyncClient(gpumand.address) as client:
        assert client.version() == client.status().version
        client.load("comfyui")
        assert [one.consumer for one in client.plan("ollama").evictions] == ["comfyui"]
        client.pin("comfyui")
        client.unpin("comfyui")
        client.reload()
        with client.lease("comfyui"), pytest.raises(Busy):
            client.acquire("ollama", timeout_sec=0)
        grant = client.acquire("comfyui", ttl_sec=60)
        assert client.renew(grant.id) is not None
        client.release(grant.id)
        assert client.history(limit=1)[0].lease == grant.id
        assert client.evict("comfyui").changed


def test_watch_yields_events(gpumand: PrivateGpumand) -> None:
    with SyncClient(gpumand.address) as client:
        client.load("comfyui")
        with client.watch() as events, client.lease("ollama") as held:
            eviction, granted = next(events), next(events)
        assert isinstance(eviction, Eviction)
        assert granted == LeaseGranted(held.id, "ollama")


def test_one_client_serves_many_threads(gpumand: PrivateGpumand) -> None:
    def hold(number: int) -> str:
        with client.lease("comfyui", reason=str(number)) as held:
            return held.id

    with SyncClient(gpumand.address) as client, ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(hold, range(8)))) == 8
        assert client.status().leases == ()


def test_revoked_lease_wakes_a_waiting_thread(gpumand: PrivateGpumand) -> None:
    with SyncClient(gpumand.address) as client, client.lease("comfyui") as held, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(held.ended.wait, DEADLINE_SEC)
        client.evict("comfyui", force=True)
        assert waiting.result() == "revoked"


async def test_works_in_a_running_event_loop_as_in_a_notebook(gpumand: PrivateGpumand) -> None:
    assert asyncio.get_running_loop().is_running()
    with lease_sync("comfyui", bus=gpumand.address) as held, SyncClient(gpumand.address) as client:
        assert [one.id for one in client.status().leases] == [held.id]


# Python 3.12 and later warn about forks in multi-threaded programs, which this test is about.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_leaves_the_lease_with_the_parent(gpumand: PrivateGpumand) -> None:
    with SyncClient(gpumand.address) as client:
        with lease_sync("comfyui", bus=gpumand.address) as held:
            pid = os.fork()
            if pid == 0:
                try:
                    held.release()
                except RuntimeError:
                    os._exit(42)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
            assert [one.id for one in client.status().leases] == [held.id]
        assert client.status().leases == ()


def test_ctrl_c_while_waiting_withdraws_the_request(gpumand: PrivateGpumand) -> None:
    program = (
        "import sys, time\nfrom gpumand.client import lease_sync\n"
        "try:\n"
        f"    with lease_sync('ollama', timeout_sec=None, bus={gpumand.address!r}):\n        pass\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n    sys.stdin.read()"
    )
    with SyncClient(gpumand.address) as client:
        # A lease that ends after a time: the request would be refused if it waited for one on its parent's connection.
        grant = client.acquire("comfyui")
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            await_queue(client, 1)
            process.send_signal(signal.SIGINT)
            assert process.stdout is not None
            assert process.stdout.readline() == b"interrupted\n"
            await_queue(client, 0)
            process.communicate()
        client.release(grant.id)
        assert process.returncode == 0


def test_program_that_does_not_close_its_client_ends(gpumand: PrivateGpumand) -> None:
    program = (
        "from gpumand.client import SyncClient\n"
        f"client = SyncClient({gpumand.address!r})\nclient.connect()\nprint(client.version())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE_SEC, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_client_that_is_not_entered_names_the_fix(bus: PrivateBus) -> None:
    client = SyncClient(bus.address)
    with pytest.raises(RuntimeError, match="with SyncClient"):
        client.status()
    client.close()


def test_import_of_the_client_does_not_import_the_dbus_binding() -> None:
    program = "import sys, gpumand.client; print([name for name in sys.modules if name.startswith('dbus')])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE_SEC, check=False
    )
    assert done.stdout.strip() == "[]"
