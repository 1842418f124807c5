"""The wait for a moved service follows the limits of its unit: a slow start is not a failure."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from gpumand.cli.errors import Failure
from gpumand.cli.setup import commands, port_wait
from gpumand.cli.setup.dialog import Dialog
from gpumand.cli.setup.port_wait import SystemctlState, parse_state, wait_for_ports
from gpumand.discovery.port_swap import Swap
from gpumand.host_setup import services

OLLAMA = Swap("ollama", "ollama.service", 11434, 11435, drop_in="x")


def place(
    monkeypatch: pytest.MonkeyPatch, state: Callable[[float], SystemctlState], listening: Callable[[float], set[int]]
) -> list[float]:
    """Let time pass a second per poll; the state and the ports follow it."""
    clock = [0.0]

    def sleep(_: float) -> None:
        clock[0] += 1.0

    monkeypatch.setattr(port_wait, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    monkeypatch.setattr(port_wait, "unit_state", lambda _: state(clock[0]))
    monkeypatch.setattr(port_wait, "listens", lambda port: port in listening(clock[0]))
    return clock


@pytest.mark.parametrize("limit", ["1h", "infinity"])
def test_a_unit_that_starts_for_long_is_awaited_with_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], limit: str
) -> None:
    clock = place(
        monkeypatch,
        lambda now: SystemctlState(
            "activating" if now < 2000 else "active", "start", has_job=now < 2000, start_limit=limit
        ),
        lambda now: set() if now < 2005 else {11435},
    )
    wait_for_ports([OLLAMA], Dialog(is_asking=False), [])
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert clock[0] == 2005
    assert len(said) == 201
    allowed = "without a limit" if limit == "infinity" else "at most 1h"
    assert said[1] == f"waiting until ollama.service has started: 10 s, {allowed} (its TimeoutStartSec) …"
    assert said[-1] == "waiting until ollama.service listens at port 11435: 2000 s …"


def test_the_old_process_before_the_queued_restart_is_not_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = place(
        monkeypatch,
        lambda now: SystemctlState("active" if now < 3 or now > 5 else "deactivating", has_job=now < 6),
        lambda now: {11434} if now < 5 else {11435},
    )
    wait_for_ports([OLLAMA], Dialog(is_asking=False), [])
    assert clock[0] == 6


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (SystemctlState("failed", "failed", "timeout"), r"does not run any more with port 11435 \(result timeout\)"),
        (SystemctlState("activating", "auto-restart", "exit-code", has_job=True), r"\(result exit-code\)"),
        (SystemctlState("inactive", "dead", "success"), r"does not run any more with port 11435$"),
        (SystemctlState("active", "running"), r"did not listen at port 11435 within 900 s"),
        (SystemctlState(), r"did not listen at port 11435 within 900 s"),
    ],
)
def test_a_unit_that_cannot_come_any_more_ends_the_wait(
    monkeypatch: pytest.MonkeyPatch, state: SystemctlState, reason: str
) -> None:
    place(monkeypatch, lambda _: state, lambda _: set())
    with pytest.raises(Failure, match=reason):
        wait_for_ports([OLLAMA], Dialog(is_asking=False), [])


def test_the_lines_of_systemctl_are_read() -> None:
    text = "TimeoutStartUSec=1min 30s\nResult=success\nActiveState=activating\nSubState=start\nJob=421\n"
    assert parse_state(text) == SystemctlState("activating", "start", "success", has_job=True, start_limit="1min 30s")
    assert parse_state("ActiveState=active\nJob=0\n") == SystemctlState("active")
    assert [parse_state(f"ActiveState={one}").is_running for one in ("activating", "active", "failed", "")] == [
        True,
        True,
        False,
        False,
    ]


def test_a_command_that_waits_for_a_unit_has_the_limits_of_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float | None] = []
    monkeypatch.setattr(services, "run", lambda _command, *, timeout_sec: limits.append(timeout_sec))
    lines = [("systemctl", "restart", "gpumand-gateway.service"), ("systemctl", "daemon-reload")]
    commands.run_all(lines, Dialog(is_asking=False))
    assert limits == [None, services.TIMEOUT_SEC]
