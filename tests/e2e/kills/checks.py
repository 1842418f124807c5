"""What must hold after the daemon has restarted."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tests.e2e.host import DAEMON, TOTAL_MIB
from tests.e2e.kills.deployment import PORTS, SIZES, Deployment

SUB_STATES = {"active": "running", "inactive": "dead", "failed": "failed"}


def lease_ids(status: dict[str, Any]) -> set[str]:
    """Return the ids of the leases in a status."""
    return {lease["id"] for lease in status["leases"]}


def assert_no_memory_reserved_twice(status: dict[str, Any]) -> None:
    """The consumers that are leased or being loaded fit on the device together."""
    busy = [one for one in status["consumers"] if one["leases"] or one["residency"] == "loading"]
    assert sum(SIZES[one["name"]] for one in busy) <= TOTAL_MIB, busy


def assert_leased_are_resident(status: dict[str, Any], besides: str) -> None:
    """Leased consumers are resident from the first answer on; only ``besides`` may be loading or unloading."""
    leased = {one["name"]: one["residency"] for one in status["consumers"] if one["leases"]}
    leased.pop(besides, None)
    assert set(leased.values()) == {"resident"}, leased


def assert_unreported_leases_are_of_callers(status: dict[str, Any], unreported: Collection[str], consumer: str) -> None:
    """A lease that no client knows is one whose reply was lost: owner and consumer are those of a waiting request."""
    for lease in status["leases"]:
        if lease["id"] in unreported:
            assert (lease["consumer"], lease["lifetime"]) == (consumer, "connection"), lease


def inconsistency(deployment: Deployment) -> str:
    """Return the first difference between the status and the host at rest, in one line; "" if there is none."""
    observed, status = deployment.observed(), deployment.observer.status()
    assert_no_memory_reserved_twice(status)
    for name, (active, sub, job) in observed["units"].items():
        if SUB_STATES.get(active) != sub or job:
            return f"{name} is {active} ({sub}), job {job!r}"
    shown = {one["name"]: one["residency"] for one in status["consumers"]}
    expected = {name: _residency(observed, name) for name in SIZES}
    if shown != expected:
        return f"the status shows {shown}, but the host has {expected}"
    return _memory(observed, status, expected)


def _residency(observed: dict[str, Any], name: str) -> str:
    if name in PORTS:
        health = observed["health"][name]
        is_loaded = bool(health and health["model_loaded"])
    else:
        is_loaded = observed["units"][f"{name}.service"][0] == "active"
    return "resident" if is_loaded else "unloaded"


def _memory(observed: dict[str, Any], status: dict[str, Any], expected: dict[str, str]) -> str:
    """All memory in use belongs to a resident consumer, and the status shows the same amount."""
    should = {f"{name}.service": SIZES[name] for name in SIZES if expected[name] == "resident"}
    if observed["memory"] != should:
        return f"memory is in use by {observed['memory']}, expected {should}"
    (device,) = status["devices"]
    if (device["used_mib"], device["foreign_mib"]) != (sum(should.values()), 0):
        return f"the status shows the device as {device}, but {should} use its memory"
    out_of_memory = [name for name in PORTS if (observed["health"][name] or {}).get("oom")]
    assert not out_of_memory, f"ran out of memory: {out_of_memory}"
    return ""


def assert_clean_end(deployment: Deployment) -> None:
    """After their owners have ended no lease is left, and the daemon never found a bad file of its own."""
    machine = deployment.host.machine
    deployment.await_rest(lambda: deployment.observer.status()["leases"], "the leases end with their owners")
    deployment.await_rest(lambda: machine.run(["ls", "/run/gpumand/leases"]).stdout, "their files are removed")
    assert "quarantine" not in machine.run(["ls", "/run/gpumand"]).stdout.split()
    journal = machine.journal(DAEMON, lines=1_000_000)
    assert "Traceback" not in journal
    assert "moved to quarantine" not in journal
    assert "history.db.damaged" not in journal
    assert not [name for name, (active, _, _) in deployment.observed()["units"].items() if active == "failed"]
