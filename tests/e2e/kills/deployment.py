"""The machine whose daemon is killed: its consumers, and the clients whose leases last for the whole test."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.host import TOTAL_MIB, VRAM_DIR, Host, holding
from tests.e2e.kills.client_handle import ClientHandle

BIG_MIB, VOICE_MIB = 10000, 2000
BIG = ("image", "video", "model")
"""Two of them fit on the device together with voice, three do not; each loads and unloads slowly in a different way."""

SIZES = {"voice": VOICE_MIB, **dict.fromkeys(BIG, BIG_MIB)}
PORTS = {"image": 9101, "video": 9102}
SLOW = f"--load-sec=0.5 --load-steps=5 --unload-sec=0.5 --device-total={TOTAL_MIB}"
HOUR_USEC = 3_600_000_000
KEEP = "ExecStartPre=/usr/bin/gpumanctl acquire voice --lifetime unit"
REST_SEC = 15.0


@dataclass
class Deployment:
    """The machine with its consumers and clients.

    Attributes:
        observer: reads the status, kills the daemon, and holds the leases of a round.
        keeper: a second client; ``quiet``: a third, which holds a lease and makes no further call.
        permanent: leases that must survive to the end, with the name of their owner.
    """

    host: Host
    observer: ClientHandle
    keeper: ClientHandle
    quiet: ClientHandle
    permanent: dict[str, str] = field(default_factory=dict)

    @classmethod
    def create(cls, host: Host) -> Deployment:
        """Configure and start everything, and take the permanent leases."""
        host.holder("voice", VOICE_MIB)
        host.server("image", BIG_MIB, PORTS["image"], SLOW)
        host.server("video", BIG_MIB, PORTS["video"], f"{SLOW} --async-load --async-unload")
        host.unit("model", f"{holding('model', BIG_MIB)} --stop-sec=0.5", "ExecStartPre=/bin/sleep 0.5")
        host.consumer("model", BIG_MIB)
        host.unit("keep", "/usr/bin/sleep infinity", KEEP)
        host.unit("ending-owner", "/usr/bin/sleep infinity", KEEP)
        host.unit("runner", "/usr/bin/gpumanctl run voice -- sleep infinity")
        host.start()
        deployment = cls(host, ClientHandle(host.machine), ClientHandle(host.machine), ClientHandle(host.machine))
        deployment._take_permanent_leases()
        return deployment

    def _take_permanent_leases(self) -> None:
        self._add_permanent("a silent client", self.quiet.acquire("voice", lifetime="connection"))
        self._add_permanent("a calling client", self.keeper.acquire("voice", lifetime="connection"))
        self._add_permanent("busctl", self.host.client.acquire("voice", ttl_usec=HOUR_USEC)[0])
        for unit in ("keep", "runner"):
            self.host.machine.systemctl("start", f"{unit}.service")
            self._add_permanent(f"{unit}.service", self._new_lease(unit))

    def _add_permanent(self, owner: str, lease: str) -> None:
        self.permanent[lease] = owner

    def _new_lease(self, unit: str) -> str:
        """Wait for the lease of a unit: with Type=exec, a started unit may not have taken it yet."""

        def found() -> set[str]:
            return {lease["id"] for lease in self.observer.status()["leases"]} - self.permanent.keys()

        (lease,) = self.host.machine.wait_until(found, f"{unit} has a lease")
        return lease

    def end_owners(self) -> None:
        """End all owners of permanent leases, each in its own way; the observer stays connected."""
        self.quiet.end()
        self.keeper.end()
        self.host.machine.systemctl("stop", "keep.service", "runner.service")
        self.release({lease for lease, owner in self.permanent.items() if owner == "busctl"})

    def close(self) -> None:
        """End the clients."""
        for handle in (self.observer, self.keeper, self.quiet):
            handle.end()

    # -- observing -----------------------------------------------------------------------------------------------

    def residents(self) -> list[str]:
        """Return the names of the resident big consumers."""
        consumers = self.observer.status()["consumers"]
        return [one["name"] for one in consumers if one["name"] in BIG and one["residency"] == "resident"]

    def observed(self) -> dict[str, Any]:
        """See ``observations.observe``."""
        units = [f"{name}.service" for name in (*SIZES, "keep", "runner", "ending-owner")]
        observed: dict[str, Any] = self.observer.do("observe", units=units, ports=PORTS, vram_dir=VRAM_DIR)
        return observed

    def await_residency(self, consumer: str, residency: str, within_sec: float = 30.0) -> None:
        """Wait until a consumer has this residency."""
        now = self.observer.do("await", consumer=consumer, residency=residency, within_sec=within_sec)
        assert now == residency, f"{consumer} is {now}, not {residency}"

    def await_rest(self, find_problem: Any, what: str) -> None:
        """Wait until a check finds nothing wrong. Raises AssertionError with what it found last."""
        deadline = time.monotonic() + REST_SEC
        while wrong := find_problem():
            assert time.monotonic() < deadline, f"{what}: {wrong}"
            time.sleep(0.03)

    # -- acting --------------------------------------------------------------------------------------------------

    def load(self, consumer: str) -> None:
        """Load a consumer manually."""
        self.observer.call("Load", "sa{sv}", consumer, {})

    def evict(self, consumer: str) -> None:
        """Evict a consumer manually."""
        self.observer.call("Evict", "sa{sv}", consumer, {})

    def release(self, leases: set[str]) -> None:
        """Release leases."""
        for lease in leases:
            self.observer.call("Release", "s", lease)
