"""Facts about a healthy host, which tests change one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from gpumand.cli.doctor.checks import examine
from gpumand.cli.doctor.facts import Bus, Caller, Configuration, Dmem, Driver, Facts, GatewayFacts, Node, UnitFacts
from gpumand.cli.doctor.finding import Finding
from gpumand.cli.packages import Packages
from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, Health, HealthRoute, Route, Settings
from gpumand.version import VERSION
from tests.unit.cli import samples

HTTP, STOP = EvictionMethod.HTTP, EvictionMethod.UNIT_STOP
ROUTES: dict[str, Any] = {
    "url": "http://127.0.0.1:9200",
    "health": HealthRoute("/health"),
    "load": Route("/load"),
    "unload": Route("/unload"),
}


def spec(name: str, **changes: Any) -> ConsumerSpec:
    return ConsumerSpec(name, 2867, **({"unit": f"{name}.service", "evict": (HTTP, STOP)} | ROUTES | changes))


def unit(name: str, **changes: Any) -> UnitFacts:
    usual = UnitFacts(
        name,
        name,
        "loaded",
        "active",
        "disabled",
        f"/etc/systemd/system/{name}",
        restart="no",
        kill_mode="control-group",
    )
    return replace(usual, **changes)


def settings(*specs: ConsumerSpec) -> Configuration:
    findings = Settings(consumers={one.name: one for one in specs})
    return Configuration((Path("/etc/gpumand/gpumand.toml"),), samples.NOW, "/etc/gpumand/gpumand.toml", findings)


def status(**changes: Any) -> dict[str, Any]:
    consumers = [samples.consumer(name, evict=["http", "unit-stop"]) for name in ("mvoice", "comfyui")]
    plain = {"version": VERSION, "consumers": consumers, "configured_usec": samples.NOW, "leases": []}
    return samples.status(**(plain | changes))


HEALTHY = Facts(
    gateway=GatewayFacts("/etc/gpumand/gateway.toml", open={}),
    dmem=Dmem(("nvidia/00000000:01:00.0/vidmem",), is_enabled=True),
    unread_cards=(),
    packages=Packages(downloadable=frozenset({"gpumand", "polkitd", "libnvidia-ml1"})),
    caller=Caller(1000, "alice", is_member=True, is_listed=True, group_exists=True),
    bus=Bus(
        is_running=True,
        is_activatable=True,
        owner_uid=990,
        daemon_uid=990,
        has_systemd=True,
        has_polkit=True,
    ),
    config=settings(spec("mvoice"), spec("comfyui")),
    status=status(),
    service=unit("gpumand.service"),
    units={name: unit(name) for name in ("mvoice.service", "comfyui.service")},
    driver=Driver(
        devices=1,
        kernel_version="550.54.14",
        library_version="550.54.14",
        nodes=(Node("/dev/nvidia0", 0o666, "root"), Node("/dev/nvidiactl", 0o666, "root")),
    ),
    routes={"mvoice": Health(True), "comfyui": Health(True)},
)


def findings(facts: Facts, check: str) -> list[Finding]:
    return examine(facts)[check] or []


def only_finding(facts: Facts, check: str) -> Finding:
    """The only finding of all checks, which has to be one of this check."""
    every = {name: ones for name, ones in examine(facts).items() if ones}
    assert list(every) == [check]
    (finding,) = every[check]
    return finding
