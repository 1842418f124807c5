"""What must be so after the daemon has come back."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tests.e2e.host import DAEMON, TOTAL_MIB
from tests.e2e.kills.scene import PORTS, SIZES, Scene

CALM = {"active": "running", "inactive": "dead", "failed": "failed"}


def lease_ids(status: dict[str, Any]) -> set[str]:
    """The leases of a status."""
    return {lease["id"] for lease in status["leases"]}


def assert_booked_once(status: dict[str, Any]) -> None:
    """What is leased or being loaded fits the device."""
    busy = [one for one in status["consumers"] if one["leases"] or one["residency"] == "loading"]
    assert sum(SIZES[one["name"]] for one in busy) <= TOTAL_MIB, busy


def assert_known(status: dict[str, Any], besides: str) -> None:
    """What a living lease stands on is resident from the first answer on; ``besides`` may be in motion."""
    leased = {one["name"]: one["residency"] for one in status["consumers"] if one["leases"]}
    leased.pop(besides, None)
    assert set(leased.values()) == {"resident"}, leased


def assert_owned(status: dict[str, Any], strangers: Collection[str], consumer: str) -> None:
    """A lease that nobody was told of is one whose answer was lost on its way: of who asked, for what was asked for."""
    for lease in status["leases"]:
        if lease["id"] in strangers:
            assert (lease["consumer"], lease["lifetime"]) == (consumer, "connection"), lease


def unrest(scene: Scene) -> str:
    """What is not as it should be on a machine at rest, in one line; "" when all is well."""
    truth, status = scene.truth(), scene.observer.status()
    assert_booked_once(status)
    for name, (active, sub, job) in truth["units"].items():
        if CALM.get(active) != sub or job:
            return f"{name} is {active} ({sub}), job {job!r}"
    shown = {one["name"]: one["residency"] for one in status["consumers"]}
    so = {name: _residency(truth, name) for name in SIZES}
    if shown != so:
        return f"shown as {shown}, and so is {so}"
    return _memory(truth, status, so)


def _residency(truth: dict[str, Any], name: str) -> str:
    if name in PORTS:
        health = truth["health"][name]
        is_loaded = bool(health and health["model_loaded"])
    else:
        is_loaded = truth["units"][f"{name}.service"][0] == "active"
    return "resident" if is_loaded else "unloaded"


def _memory(truth: dict[str, Any], status: dict[str, Any], so: dict[str, str]) -> str:
    """Every MiB that is held belongs to a consumer that is known to hold it."""
    should = {f"{name}.service": SIZES[name] for name in SIZES if so[name] == "resident"}
    if truth["memory"] != should:
        return f"memory is held by {truth['memory']}, and should be by {should}"
    (device,) = status["devices"]
    if (device["used_mib"], device["foreign_mib"]) != (sum(should.values()), 0):
        return f"the device is shown as {device}, and {should} hold it"
    out_of_memory = [name for name in PORTS if (truth["health"][name] or {}).get("oom")]
    assert not out_of_memory, f"ran out of memory: {out_of_memory}"
    return ""


def assert_clean_end(scene: Scene) -> None:
    """With the last owner the last lease goes, and nothing that the daemon had written was ever bad."""
    machine = scene.host.machine
    scene.await_rest(lambda: scene.observer.status()["leases"], "the leases end with their owners")
    scene.await_rest(lambda: machine.run(["ls", "/run/gpumand/leases"]).stdout, "their files are removed")
    assert "quarantine" not in machine.run(["ls", "/run/gpumand"]).stdout.split()
    journal = machine.journal(DAEMON, lines=1_000_000)
    assert "Traceback" not in journal
    assert "moved to quarantine" not in journal
    assert "history.db.damaged" not in journal
    assert not [name for name, (active, _, _) in scene.truth()["units"].items() if active == "failed"]
