"""Failures of commands: one line and an exit code, for errors of the daemon, a missing bus and wrong usage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpumand.domain.errors import (
    AccessDenied,
    Busy,
    GpumandError,
    InsufficientVram,
    NoSuchConsumer,
    NoSuchDevice,
    NoSuchLease,
    TimedOut,
)
from gpumand.version import VERSION
from tests.integration.cli.ctl import Ctl, failure
from tests.integration.cli.manager import ScriptedManager, dictionary, failing, replying


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (NoSuchConsumer("no consumer is called mvoice"), 4, "gpumanctl list"),
        (NoSuchLease("no such lease"), 4, "gpumanctl status"),
        (NoSuchDevice("no device '3' is known"), 1, "list the GPUs with: gpumanctl status"),
        (TimedOut("waited 20 s for the lease on comfyui"), 1, "--wait"),
        (Busy("comfyui is under a lease"), 1, "comfyui is under a lease"),
        (InsufficientVram("14592 MiB are needed"), 1, "14592 MiB are needed"),
        (AccessDenied("polkit does not allow org.gpumand1.acquire"), 1, "permission denied"),
    ],
)
async def test_daemon_errors_become_one_line_and_an_exit_code(
    ctl: Ctl, manager: ScriptedManager, error: GpumandError, code: int, text: str
) -> None:
    manager.answers["Acquire"] = failing(error)
    got, line = await failure(ctl, "acquire", "mvoice")
    assert got == code
    assert error.message in line
    assert text in line


async def test_a_stopped_daemon_exits_3_with_the_start_command(ctl: Ctl) -> None:
    code, line = await failure(ctl, "status")
    assert code == 3
    assert f"start it with: gpumand --bus-address '{ctl.address}'" in line


async def test_a_missing_bus_is_reported(tmp_path: Path) -> None:
    code, line = await failure(Ctl(f"unix:path={tmp_path}/none"), "status")
    assert code == 1
    assert line.startswith(
        f"gpumanctl: cannot connect to the bus at unix:path={tmp_path}/none: No such file or directory"
    )
    nothing = {"XDG_RUNTIME_DIR": str(tmp_path), "DBUS_SESSION_BUS_ADDRESS": ""}
    code, line = await failure(Ctl("", nothing), "--user", "status")
    assert code == 1
    assert "check that this session has a D-Bus session bus" in line


async def test_an_invalid_bus_address_is_reported() -> None:
    code, line = await failure(Ctl("nonsense"), "status")
    assert code == 1
    assert "nonsense" in line


UNKNOWN = "org.freedesktop.DBus.Error.UnknownMethod"


class OldDaemon(GpumandError):
    """The error of a daemon that lacks a method."""

    dbus_name = UNKNOWN


@pytest.mark.parametrize("answer", [failing(OldDaemon("no such method")), replying("s", "surprise"), dictionary({})])
async def test_an_incompatible_daemon_is_reported(ctl: Ctl, manager: ScriptedManager, answer: Any) -> None:
    manager.answers["GetStatus"] = answer
    code, line = await failure(ctl, "status")
    assert code == 1
    assert f"does not match gpumanctl {VERSION}" in line


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("statsu",), "did you mean status?"),
        (("unload", "mvoice"), "To unload a consumer: gpumanctl evict mvoice"),
        (("help", "statsu"), "did you mean status?"),
        (("acquire",), "give a CONSUMER, or --vram SIZE or --all"),
        (("acquire", "mvoice", "--ttl", "soon"), "'soon' is not a duration"),
        (("acquire", "mvoice", "--ttl", "0"), "--ttl must be more than 0"),
        (("acquire", "mvoice", "--lifetime", "connection"), "use: gpumanctl run mvoice -- COMMAND"),
        (("acquire", "mvoice", "--lifetime", "unit", "--ttl", "5s"), "--ttl requires --lifetime ttl"),
        (("acquire", "mvoice", "--wait", "--timeout", "5s"), "exclude each other"),
        (("acquire", "mvoice", "--priority", "101"), "101"),
        (("status", "--user", "--bus-address", "unix:path=/x"), "exclude each other"),
        (("run", "mvoice", "--json", "--", "true"), "belongs to the command"),
        (("run", "mvoice"), "Missing argument"),
        (("status", "surplus"), "surplus"),
    ],
)
async def test_wrong_usage_is_one_line_and_makes_no_call(
    ctl: Ctl, manager: ScriptedManager, args: tuple[str, ...], text: str
) -> None:
    result = await ctl(*args)
    assert (result.code, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert text in line
    assert manager.calls == []


NO_UTF8 = "\udcff"
"""The form in which a byte that is not UTF-8 arrives in an argument."""


@pytest.mark.parametrize(
    "words", [("acquire", NO_UTF8), ("acquire", "mvoice", "--reason", NO_UTF8), ("release", NO_UTF8), ("pin", NO_UTF8)]
)
async def test_arguments_that_are_not_utf8_are_refused_in_one_line(
    ctl: Ctl, manager: ScriptedManager, words: tuple[str, ...]
) -> None:
    result = await ctl(*words)
    assert (result.code, result.out) == (1, "")
    assert "contains characters that D-Bus cannot carry" in result.err
    assert result.err.count("\n") == 1
    assert manager.calls == []
