"""What stands on the machine while its daemon is killed: consumers, and owners of leases that live through it all."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.host import TOTAL_MIB, VRAM_DIR, Host, holding
from tests.e2e.kills.handle import Handle

BIG_MIB, VOICE_MIB = 10000, 2000
BIG = ("image", "video", "model")
"""Two of them fit beside the voice, three do not; each loads and unloads in another way, and slowly."""

SIZES = {"voice": VOICE_MIB, **dict.fromkeys(BIG, BIG_MIB)}
PORTS = {"image": 9101, "video": 9102}
SLOW = f"--load-sec=0.5 --load-steps=5 --unload-sec=0.5 --device-total={TOTAL_MIB}"
HOUR_USEC = 3_600_000_000
KEEP = "ExecStartPre=/usr/bin/gpumanctl acquire voice --lifetime unit"
REST_SEC = 15.0


@dataclass
class Scene:
    """The machine with everything on it.

    Attributes:
        observer: asks, strikes, and holds what a round needs.
        keeper: a second client; ``quiet``: a third, that holds a lease and says nothing for as long as the test takes.
        standing: leases that must stand to the end, with what holds them.
    """

    host: Host
    observer: Handle
    keeper: Handle
    quiet: Handle
    standing: dict[str, str] = field(default_factory=dict)

    @classmethod
    def made(cls, host: Host) -> Scene:
        """Configure and start everything, and take the leases that must stand to the end."""
        host.holder("voice", VOICE_MIB)
        host.server("image", BIG_MIB, PORTS["image"], SLOW)
        host.server("video", BIG_MIB, PORTS["video"], f"{SLOW} --async-load --async-unload")
        host.unit("model", f"{holding('model', BIG_MIB)} --stop-sec=0.5", "ExecStartPre=/bin/sleep 0.5")
        host.consumer("model", BIG_MIB)
        host.unit("keep", "/usr/bin/sleep infinity", KEEP)
        host.unit("mortal", "/usr/bin/sleep infinity", KEEP)
        host.unit("runner", "/usr/bin/gpumanctl run voice -- sleep infinity")
        host.start()
        scene = cls(host, Handle(host.machine), Handle(host.machine), Handle(host.machine))
        scene._take_standing()
        return scene

    def _take_standing(self) -> None:
        self._stands("a client that says nothing", self.quiet.acquire("voice", lifetime="connection"))
        self._stands("a client that asks", self.keeper.acquire("voice", lifetime="connection"))
        self._stands("busctl", self.host.client.acquire("voice", ttl_usec=HOUR_USEC)[0])
        for unit in ("keep", "runner"):
            self.host.machine.systemctl("start", f"{unit}.service")
            self._stands(f"{unit}.service", self._new_lease(unit))

    def _stands(self, owner: str, lease: str) -> None:
        self.standing[lease] = owner

    def _new_lease(self, unit: str) -> str:
        """The lease that a unit has taken: Type=exec tells only that its command runs."""

        def found() -> set[str]:
            return {lease["id"] for lease in self.observer.status()["leases"]} - self.standing.keys()

        (lease,) = self.host.machine.wait_until(found, f"{unit} has a lease")
        return lease

    def end_owners(self) -> None:
        """End everybody who holds a standing lease, each as its kind ends; the observer stays."""
        self.quiet.end()
        self.keeper.end()
        self.host.machine.systemctl("stop", "keep.service", "runner.service")
        self.release({lease for lease, owner in self.standing.items() if owner == "busctl"})

    def close(self) -> None:
        """End the clients."""
        for handle in (self.observer, self.keeper, self.quiet):
            handle.end()

    # -- looking -------------------------------------------------------------------------------------------------

    def residents(self) -> list[str]:
        """Which of the big ones are resident."""
        consumers = self.observer.status()["consumers"]
        return [one["name"] for one in consumers if one["name"] in BIG and one["residency"] == "resident"]

    def truth(self) -> dict[str, Any]:
        """See ``witness.truth``."""
        units = [f"{name}.service" for name in (*SIZES, "keep", "runner", "mortal")]
        truth: dict[str, Any] = self.observer.do("truth", units=units, ports=PORTS, vram_dir=VRAM_DIR)
        return truth

    def await_residency(self, consumer: str, residency: str, within_sec: float = 10.0) -> None:
        """Wait until a consumer is what it should be."""
        now = self.observer.do("await", consumer=consumer, residency=residency, within_sec=within_sec)
        assert now == residency, f"{consumer} is {now}, not {residency}"

    def await_rest(self, is_so: Any, what: str) -> None:
        """Wait until a check finds nothing wrong. Raises AssertionError with what it found last."""
        deadline = time.monotonic() + REST_SEC
        while wrong := is_so():
            assert time.monotonic() < deadline, f"{what}: {wrong}"
            time.sleep(0.03)

    # -- doing ---------------------------------------------------------------------------------------------------

    def load(self, consumer: str) -> None:
        """Load one by hand."""
        self.observer.call("Load", "sa{sv}", consumer, {})

    def evict(self, consumer: str) -> None:
        """Evict one by hand."""
        self.observer.call("Evict", "sa{sv}", consumer, {})

    def release(self, leases: set[str]) -> None:
        """Give leases back."""
        for lease in leases:
            self.observer.call("Release", "s", lease)
