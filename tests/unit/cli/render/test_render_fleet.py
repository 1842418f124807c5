"""``gpumanctl --fleet status``: hosts and the leases that they publish, as text."""

from __future__ import annotations

from typing import Any

from gpumand.cli.output import paint
from gpumand.cli.render.fleet import fleet_lines
from gpumand.cli.render.theme import Theme
from tests.unit.cli.samples import MINUTE, NOW

PLAIN = Theme(width=100)


def host(name: str, *leases: dict[str, Any]) -> dict[str, Any]:
    consumers = {"llm": {"r": "resident", "leases": len(leases)}}
    return {"state": "up", "local": name == "gpu1", "row": {"name": name, "consumers": consumers}, "leases": [*leases]}


def lease(via: str = "", **more: Any) -> dict[str, Any]:
    fields = {"id": "l1", "consumer": "llm", "owner": "job.service", "since": NOW - 3 * MINUTE, "reason": "night run"}
    return fields | ({"via": via} if via else {}) | more


def shown(*hosts: dict[str, Any]) -> str:
    return paint(fleet_lines({"hosts": [*hosts]}, PLAIN, NOW), PLAIN)


def test_leases_of_all_hosts_are_listed_with_the_host_that_placed_them() -> None:
    text = shown(host("gpu1", lease()), host("gpu2", lease(via="gpu1"), lease(via="gpu2", consumer="")))
    _, _, table = text.partition("LEASED")
    lines = [one.split() for one in table.splitlines()[1:]]
    assert lines == [
        ["gpu1", "llm", "job.service", "3", "min", "ago", "-", "night", "run"],
        ["gpu2", "llm", "job.service", "3", "min", "ago", "gpu1", "night", "run"],
        ["gpu2", "reservation", "job.service", "3", "min", "ago", "-", "night", "run"],
    ]


def test_fleet_without_published_leases_has_no_table_of_them() -> None:
    assert "LEASED" not in shown(host("gpu1"), host("gpu2"))
    old = {key: value for key, value in host("gpu2").items() if key != "leases"}
    assert "gpu2" in shown(old), "an older agent names no leases"


def test_what_a_lost_host_last_had_is_not_counted() -> None:
    lost = host("gpu2", lease()) | {"state": "lost", "why": "no answer"}
    assert "1 of 2 hosts up, 1 consumer resident, 1 lease" in shown(host("gpu1", lease()), lost)
    assert "0 of 1 host up, 0 consumers resident, 0 leases" in shown(lost)


def test_lease_of_another_host_cannot_change_the_screen() -> None:
    assert "\x1b" not in shown(host("gpu2", lease(via="\x1b[2J", reason="\x1b[31mred", owner="\x1b]0;x\x07")))


def test_reason_why_other_hosts_do_not_know_this_one_is_shown() -> None:
    fleet = {"hosts": [host("gpu1")], "why": "etcd refuses a write: alarm NOSPACE"}
    assert "this host: etcd refuses a write: alarm NOSPACE" in paint(fleet_lines(fleet, PLAIN, NOW), PLAIN)
    both = fleet | {"degraded": fleet["why"]}
    assert "this host" not in paint(fleet_lines(both, PLAIN, NOW), PLAIN), "it is not said twice"
