"""The report for an issue: what it contains, and that no text of other programs and no name reaches it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from gpumand.cli.commands.report import report_text
from gpumand.cli.doctor.checks import examine
from gpumand.cli.doctor.facts import Facts
from gpumand.cli.issue_report import safe
from gpumand.cli.issue_report.host import HostVersions
from gpumand.cli.issue_report.message_kinds import OTHER, kind_of, reading_error
from gpumand.cli.issue_report.sections import sections
from gpumand.config.problems import ConfigProblem
from tests.unit.cli import samples
from tests.unit.cli.doctor.healthy_host import HEALTHY, settings, spec, status, unit

MARK = "/home/alice/.ssh: 'draw my SECRETPROMPT' 10.1.2.3"
VERSIONS = HostVersions("1.2", "debian", "13", "6.12.5-amd64", "x86_64", "3.13.5", "257")
HOUR = 3600 * 1_000_000
LEARNED = {
    "steady_mib": 2700,
    "peak_mib": 2900,
    "loads": [{"start": "cold", "count": 7, "mean_usec": 12_300_000, "max_usec": 31_000_000}],
    "unloads": [{"method": "unit-stop", "count": 3, "mean_usec": 900_000, "max_usec": 1_500_000}],
}


def entry(kind: str, **changes: Any) -> dict[str, Any]:
    plain = {"at_usec": samples.NOW, "kind": kind, "consumer": "mvoice", "device": "0", "duration_usec": 2_000_000}
    return plain | {"detail": "", "method": "", "trigger": ""} | changes


HISTORY = [
    entry("load-failed", at_usec=samples.NOW - 5 * HOUR, detail="mvoice: not loaded after 300 s: no answer"),
    entry("eviction-failed", consumer="comfyui", method="http", detail="15 MiB stay in use"),
    entry("load", duration_usec=8_000_000),
    entry("load", duration_usec=12_000_000),
    entry("load", duration_usec=40_000_000),
    entry("eviction", method="unit-stop", duration_usec=750_000),
]


def report(facts: Facts = HEALTHY, history: list[dict[str, Any]] | None = None, **changes: Any) -> str:
    given = replace(VERSIONS, **changes)
    return report_text(sections(facts, given, history or [], examine(facts), samples.NOW))


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def test_report_has_versions_devices_and_measured_times() -> None:
    failed = replace(
        HEALTHY,
        learned={"mvoice": LEARNED},
        units=dict(HEALTHY.units) | {"mvoice.service": unit("mvoice.service", result="oom-kill")},
    )
    found = lines(report(failed, HISTORY))
    assert {
        "gpumanctl: 1.2",
        "distribution: debian 13",
        "kernel: 6.12.5",
        "NVIDIA kernel module: 550.54.14",
        "product: NVIDIA GeForce RTX 4090",
        "memory: total 24564 MiB, used 16700 MiB, free 7864 MiB, reserved 0 MiB, foreign 521 MiB, unnamed unknown",
        "runs in: service unit",
        "unit: loaded, active, result oom-kill, Restart=no, KillMode=control-group",
        "eviction: http, unit-stop",
        "learned memory: steady 2700 MiB, peak 2900 MiB, residual unknown",
        "loads, cold: 7: mean 12.30 s, longest 31.00 s",
        "unloads, unit-stop: 3: mean 0.90 s, longest 1.50 s",
        "history, load: 3: shortest, median, longest 8.00 s, 12.00 s, 40.00 s",
        "history, eviction by unit-stop: 1: shortest, median, longest 0.75 s, 0.75 s, 0.75 s",
        "load-failed, 5 h ago: consumer 2, after 2.00 s: not loaded within the time limit",
        "eviction-failed, 0 h ago: consumer 1, after 2.00 s: the memory was not freed",
    } <= set(found)


def test_names_of_consumers_and_units_are_numbers() -> None:
    text = report(replace(HEALTHY, learned={"mvoice": LEARNED}), HISTORY)
    assert "Consumer 1" in text
    assert "Consumer 2" in text
    for name in ("mvoice", "comfyui", "alice", "9200", "/etc", "GPU-5f1c", "render.service", "poster"):
        assert name not in text, text


def hostile(value: Any) -> Any:
    """The value with every text in it replaced, as by a program that wants its text to be published."""
    if isinstance(value, Enum | Path) or value is None:
        return value
    if isinstance(value, str):
        return f"{value}{MARK}" if value else MARK
    if isinstance(value, Mapping):
        return {key: hostile(one) for key, one in value.items()}
    if isinstance(value, list | tuple | frozenset):
        return type(value)(hostile(one) for one in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [one.name for one in dataclasses.fields(value) if one.init]
        return replace(value, **{name: hostile(getattr(value, name)) for name in fields})
    return value


def assert_private(text: str) -> None:
    for word in ("SECRETPROMPT", "alice", "/home", ".ssh", "10.1.2.3", "draw", "\x1b"):
        assert word not in text, text


def test_no_text_of_a_hostile_daemon_reaches_the_report() -> None:
    facts = replace(
        HEALTHY,
        status=hostile(status(leases=[samples.lease()], queue=[samples.waiting()], degraded="nvml-error: x")),
        learned={"mvoice": hostile(LEARNED)},
        service=hostile(unit("gpumand.service")),
        units={name: hostile(one) for name, one in HEALTHY.units.items()},
        driver=hostile(HEALTHY.driver),
    )
    kinds = ("load", "load-failed", "eviction", "eviction-failed")
    history = [hostile(entry(kind)) | {"kind": kind} for kind in kinds]
    versions = {field.name: hostile(getattr(VERSIONS, field.name)) for field in dataclasses.fields(VERSIONS)}
    # These two are compared with known words where they are read.
    versions |= {"distribution": "debian", "machine": "x86_64"}
    text = report(facts, history, **versions)
    assert_private(text)
    assert safe.WITHHELD in text


def test_no_text_of_the_configuration_reaches_the_report() -> None:
    hostile_spec = replace(
        hostile(spec("a", preset="own")),
        evict=spec("a").evict,
        unit=f"{MARK}@x.{MARK}",
        name=MARK,
        container="",
    )
    facts = replace(
        HEALTHY,
        config=settings(hostile_spec, spec("other", container="docker:alice-secret", unit="")),
        status=None,
        units={hostile_spec.unit: unit(MARK)},
    )
    text = report(facts)
    assert_private(text)
    assert "runs in: container (docker)" in text
    assert "runs in: template (withheld) unit" in text
    broken = replace(facts.config, settings=None, problems=(ConfigProblem(MARK, 1, 1, MARK, MARK, MARK),))
    assert_private(report(replace(facts, config=broken)))


@pytest.mark.parametrize("value", [True, -1, 1.5, "1", None, 1 << 63, [MARK], {MARK: 1}])
def test_only_numbers_are_numbers(value: object) -> None:
    assert safe.number(value) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6.12.5-alices-laptop", "6.12.5"),
        ("580.95.05", "580.95.05"),
        ("alice", safe.WITHHELD),
        ("", "unknown"),
        ("1" * 100, "111111"),
    ],
)
def test_versions_are_their_numbers(text: str, expected: str) -> None:
    assert safe.version(text) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("AMD Radeon RX 6800/6800 XT (Navi 21)", "AMD Radeon RX 6800/6800 XT (Navi 21)"),
        ("/home/alice", safe.WITHHELD),
        ("card of alice@host.example", safe.WITHHELD),
        ("a " * 40, safe.WITHHELD),
        ("\x1b[31mred", safe.WITHHELD),
    ],
)
def test_products_are_short_and_plain(name: str, expected: str) -> None:
    assert safe.product(name) == expected


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("llm: not loaded after 300 s: health check: the model is being loaded", "not loaded within the time limit"),
        ("llm.service ended while llm was loading (exit-code)", "the unit ended while the model was being loaded"),
        ("systemd does not allow gpumand to start llm.service: no", "systemd does not permit it"),
        ("its load route answered 500", "a route answered with an HTTP error (HTTP 500)"),
        ("its processes have ended, but 9000 MiB stay in use", "the memory stayed in use after the processes ended"),
        (MARK, OTHER),
        ("a" * 10_000_000, OTHER),
    ],
)
def test_messages_are_replaced_by_their_kind(message: str, kind: str) -> None:
    assert kind_of(message) == kind


def test_errors_of_readings_keep_their_word_and_the_drivers_code() -> None:
    assert reading_error("nvml-error: nvmlDeviceGetName: failed (NVML error 999)") == "nvml-error (NVML error 999)"
    assert reading_error(f"{MARK}: x") == safe.WITHHELD
    assert reading_error("") == "none"


def test_a_host_without_gpumand_has_its_versions() -> None:
    found = lines(report(replace(HEALTHY, status=None, config=settings())))
    assert "gpumand: not running" in found
    assert not [line for line in found if line.startswith(("Device", "Consumer"))]
