"""kill -9 at any moment: what was acknowledged is there, what was acknowledged as dropped is gone."""

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

# Several at once, so that the queue is never empty; every line is written in one piece, before asking and after done.
WRITER = """
import asyncio, os, random, sys
from pathlib import Path
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.state import FileStore

directory, run, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = FileStore(directory, "bus", "boot")
rng = random.Random(seed)

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def client(number):
    version = 0
    while True:
        lease_id = f"{run}-{number}-{rng.randrange(8)}"
        version += 1
        if rng.random() < 0.6:
            lease = Lease(lease_id, "tts", "0", Owner(":1.5", 1000), LeaseLifetime.TTL, 1, version, 9.0, "x" * 900)
            say("put?", lease_id, version)
            await store.put_lease(lease)
            say("put!", lease_id, version)
        else:
            say("drop?", lease_id, 0)
            await store.drop_lease(lease_id)
            say("drop!", lease_id, 0)
        await asyncio.sleep(0)

async def main():
    await store.read_leases()
    await asyncio.gather(*map(client, range(3)))

asyncio.run(main())
"""


class Expected:
    """What the leases on disk may be, by what the writer said before it died: id -> version, 0 for none."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._asked: dict[str, int] = {}
        self.acknowledged = 0

    def hear(self, line: str) -> None:
        what, lease_id, version = line.split()
        if what.endswith("?"):
            self._asked[lease_id] = int(version)
            return
        assert self._asked.pop(lease_id) == int(version)
        self._known[lease_id] = int(version)
        self.acknowledged += 1

    def compare(self, leases: tuple[Lease, ...]) -> None:
        """Check what was found, and take it for granted from now on."""
        found = {lease.id: lease.expires_usec for lease in leases}
        for lease_id in self._known | self._asked | found:
            may_be = {self._known.get(lease_id, 0), self._asked.get(lease_id, self._known.get(lease_id, 0))}
            assert found.get(lease_id, 0) in may_be, f"{lease_id} is {found.get(lease_id, 0)}, not one of {may_be}"
        self._known, self._asked = found, {}


def write_and_be_killed(directory: Path, run: int, rng: random.Random, expected: Expected) -> None:
    """Kill the writer at some moment after so many lines, and hear all that it had said."""
    arguments = [str(directory), str(run), str(rng.randrange(2**32))]
    with subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(rng.randrange(1, 150)):
            expected.hear(writer.stdout.readline())
        writer.kill()
        for line in writer.stdout:
            if line.endswith("\n"):
                expected.hear(line)
    assert writer.returncode == -9


@pytest.fixture(params=["on disk", "in memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder of either kind: in memory writes are done at once, else by a thread."""
    if request.param == "on disk":
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


@pytest.mark.timeout(120)
def test_killed_writer_loses_no_acknowledged_change(folder: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(seed)
    expected = Expected()

    for run in range(KILLS):
        write_and_be_killed(folder, run, rng, expected)
        expected.compare(asyncio.run(read(folder)))

    assert expected.acknowledged > KILLS
    assert caplog.records == [], "nothing was ever set aside"
    assert not (folder / "quarantine").exists()


async def read(directory: Path) -> tuple[Lease, ...]:
    store = FileStore(directory, BUS, BOOT)
    leases = await store.read_leases()
    await store.close()
    return leases
