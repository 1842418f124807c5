"""After kill -9 at any moment, acknowledged writes are on disk and acknowledged removals are not."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumand.domain.lease import Lease
from gpumand.state import FileStore

KILLS = 30
BUS, BOOT = "bus", "boot"

# Several clients, so that the queue is never empty. Lines are written in one piece: before a call and after its return.
WRITER = """
import asyncio, os, random, sys
from pathlib import Path
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.state import FileStore

directory, run, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = FileStore(directory, "bus", "boot")
rng = random.Random(seed)

def report(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def client(number):
    version = 0
    while True:
        lease_id = f"{run}-{number}-{rng.randrange(8)}"
        version += 1
        if rng.random() < 0.6:
            lease = Lease(lease_id, "tts", "0", Owner(":1.5", 1000), LeaseLifetime.TTL, 1, version, 9.0, "x" * 900)
            report("put?", lease_id, version)
            await store.put_lease(lease)
            report("put!", lease_id, version)
        else:
            report("drop?", lease_id, 0)
            await store.drop_lease(lease_id)
            report("drop!", lease_id, 0)
        await asyncio.sleep(0)

async def main():
    await store.read_leases()
    await asyncio.gather(*map(client, range(3)))

asyncio.run(main())
"""


class ExpectedLeases:
    """Possible leases on disk according to the output of the writer: id -> version, 0 for none."""

    def __init__(self) -> None:
        self._acknowledged: dict[str, int] = {}
        self._pending: dict[str, int] = {}
        self.acknowledged = 0

    def record(self, line: str) -> None:
        what, lease_id, version = line.split()
        if what.endswith("?"):
            self._pending[lease_id] = int(version)
            return
        assert self._pending.pop(lease_id) == int(version)
        self._acknowledged[lease_id] = int(version)
        self.acknowledged += 1

    def compare(self, leases: tuple[Lease, ...]) -> None:
        """Check the leases found, and expect them from now on."""
        found = {lease.id: lease.expires_usec for lease in leases}
        for lease_id in self._acknowledged | self._pending | found:
            may_be = {
                self._acknowledged.get(lease_id, 0),
                self._pending.get(lease_id, self._acknowledged.get(lease_id, 0)),
            }
            assert found.get(lease_id, 0) in may_be, f"{lease_id} is {found.get(lease_id, 0)}, not one of {may_be}"
        self._acknowledged, self._pending = found, {}


def run_and_kill_writer(directory: Path, run: int, rng: random.Random, expected: ExpectedLeases) -> None:
    """Kill the writer after a random number of lines, and record all of its output."""
    arguments = [str(directory), str(run), str(rng.randrange(2**32))]
    with subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(rng.randrange(1, 150)):
            expected.record(writer.stdout.readline())
        writer.kill()
        for line in writer.stdout:
            if line.endswith("\n"):
                expected.record(line)
    assert writer.returncode == -9


@pytest.fixture(params=["on disk", "in memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory of either kind: in memory, the store writes directly, else in a thread."""
    if request.param == "on disk":
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


@pytest.mark.timeout(120)
def test_killed_writer_loses_no_acknowledged_change(folder: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(seed)
    expected = ExpectedLeases()

    for run in range(KILLS):
        run_and_kill_writer(folder, run, rng, expected)
        expected.compare(asyncio.run(read(folder)))

    assert expected.acknowledged > KILLS
    assert caplog.records == [], "nothing was quarantined"
    assert not (folder / "quarantine").exists()


async def read(directory: Path) -> tuple[Lease, ...]:
    store = FileStore(directory, BUS, BOOT)
    leases = await store.read_leases()
    await store.close()
    return leases
