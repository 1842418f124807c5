"""``gpumanctl run``: environment, exit status, signals, and a lease that is lost meanwhile."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from pathlib import Path

import pytest

from gpumand.bus.connection import BusConnection, IncomingCall, Reply
from gpumand.bus.names import BUS_NAME, CONSUMER
from gpumand.domain.errors import Busy
from gpumand.testing.bus import PrivateBus
from tests.integration.cli.ctl import COMMAND, LIMIT_SEC, Ctl, Screen, finished
from tests.integration.cli.manager import LEASE, ScriptedManager, failing, grant, never, replying, variants
from tests.unit.cli import samples

# A child that prints when it is ready and which signals it receives.
LISTENER = """
import os, signal, sys
def got(number, frame):  # one write, so that neither a prompt nor the next signal splits it
    os.write(1, ("got " + signal.Signals(number).name + "\\n").encode())
    if number == signal.SIGTERM:
        sys.exit(7)
for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "WINCH", "CONT"):
    signal.signal(getattr(signal, "SIG" + name), got)
print("ready", flush=True)
while True:
    signal.pause()
"""


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_SEC):
        return (await process.stdout.readline()).decode().rstrip("\n")


async def listener(ctl: Ctl, *options: str) -> asyncio.subprocess.Process:
    """Start gpumanctl run with the listening child, and wait until that is ready."""
    process = await ctl.start("run", *options, "mvoice", "--", "python3", "-c", LISTENER)
    assert await line_of(process) == "ready"
    return process


async def test_the_lease_is_in_the_environment_and_ends_with_the_command(ctl: Ctl, manager: ScriptedManager) -> None:
    script = 'echo "$GPUMAND_LEASE $GPUMAND_CONSUMER $GPUMAND_ENDPOINT"'
    result = await ctl("run", "mvoice", "--reason", "poster", "--", "sh", "-c", script)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{LEASE} mvoice http://127.0.0.1:9200\n"
    assert [name for name, _ in manager.calls] == ["Acquire", "Release"]
    wanted = {"lifetime": "connection", "timeout_usec": 20_000_000, "reason": "poster"}
    assert manager.options_of("Acquire").items() >= wanted.items()
    await manager.wait_gone(manager.callers[0])


async def test_an_endpoint_that_is_not_configured_is_not_inherited(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["Acquire"] = replying("sa{sv}", LEASE, variants(grant(endpoint="")))
    script = 'echo "${GPUMAND_ENDPOINT-none}"'
    result = await ctl("run", "mvoice", "--", "sh", "-c", script, GPUMAND_ENDPOINT="http://stale")
    assert result.out == "none\n"


async def test_options_of_the_command_are_its_own(ctl: Ctl, manager: ScriptedManager) -> None:
    assert (await ctl("run", "mvoice", "echo", "--json", "-q", "--", "x")).out == "--json -q -- x\n"
    assert (await ctl("run", "-q", "mvoice", "--priority", "5", "--", "printf", "%s", "--help")).out == "--help"
    assert manager.options_of("Acquire")["priority"] == 5


@pytest.mark.parametrize("status", [0, 1, 3, 126, 255])
async def test_the_status_of_the_command_is_returned(ctl: Ctl, manager: ScriptedManager, status: int) -> None:
    assert (await ctl("run", "mvoice", "--", "sh", "-c", f"exit {status}")).code == status


@pytest.mark.parametrize("name", ["TERM", "INT", "KILL", "SEGV", "USR1", "PIPE"])
async def test_the_signal_of_the_command_is_raised_again(ctl: Ctl, manager: ScriptedManager, name: str) -> None:
    result = await ctl("run", "mvoice", "--", "sh", "-c", f"kill -{name} $$")
    assert result.code == -getattr(signal, "SIG" + name)
    assert [member for member, _ in manager.calls] == ["Acquire", "Release"]


async def test_a_missing_or_not_executable_command_requests_no_lease(
    ctl: Ctl, manager: ScriptedManager, tmp_path: Path
) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    missing = await ctl("run", "mvoice", "--", "gpumand-no-such-command")
    plain = await ctl("run", "mvoice", "--", str(tmp_path / "plain"))
    assert (missing.code, plain.code) == (127, 126)
    assert "command not found; no lease was requested" in missing.err
    assert "is not executable; no lease was requested" in plain.err
    assert manager.calls == []


async def test_a_file_that_the_kernel_cannot_execute_releases_the_lease(
    ctl: Ctl, manager: ScriptedManager, tmp_path: Path
) -> None:
    (tmp_path / "odd").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "odd").chmod(0o755)
    result = await ctl("run", "mvoice", "--", str(tmp_path / "odd"))
    assert result.code == 126
    assert len(result.err.splitlines()) == 1
    await manager.wait_gone(manager.callers[0])


async def test_the_command_does_not_run_without_a_lease(ctl: Ctl, manager: ScriptedManager, tmp_path: Path) -> None:
    manager.answers["Acquire"] = failing(Busy("comfyui is under a lease"))
    result = await ctl("run", "mvoice", "--", "touch", str(tmp_path / "ran"))
    assert (result.code, result.out) == (1, "")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["INT", "HUP", "QUIT", "USR1", "USR2", "WINCH", "CONT"])
async def test_signals_to_gpumanctl_reach_the_command_once(ctl: Ctl, manager: ScriptedManager, name: str) -> None:
    process = await listener(ctl)
    process.send_signal(getattr(signal, "SIG" + name))
    assert await line_of(process) == f"got SIG{name}"
    process.send_signal(signal.SIGTERM)
    assert await line_of(process) == "got SIGTERM"
    assert (await finished(process)).code == 7


async def test_ctrl_c_reaches_the_command_once_and_from_the_terminal(ctl: Ctl, manager: ScriptedManager) -> None:
    screen = await Screen.start(ctl, "run", "-q", "mvoice", "--", "python3", "-c", LISTENER)
    await screen.wait_for("ready")
    screen.type(b"\x03")
    await screen.wait_for("got SIGINT")
    screen.process.send_signal(signal.SIGTERM)
    assert await screen.end() == 7
    assert screen.text.count("got SIGINT") == 1


async def test_ctrl_z_stops_the_job_and_fg_continues_it(ctl: Ctl, manager: ScriptedManager) -> None:
    shell = await Screen.start(ctl, argv=("bash", "--norc", "--noprofile", "-i"), PS1="prompt> ", LISTENER=LISTENER)
    await shell.wait_for("prompt> ")
    command = " ".join(shlex.quote(word) for word in (*COMMAND, "run", "-q", "mvoice", "--", "python3", "-c"))
    shell.type(f'{command} "$LISTENER"; echo "status $?"\n'.encode())
    await shell.wait_for("ready\r\n")
    shell.type(b"\x1a")
    await shell.wait_for("Stopped")
    shell.type(b"fg\n")
    await shell.wait_for("got SIGCONT")
    shell.type(b"\x03")
    await shell.wait_for("got SIGINT")
    (group,) = {os.tcgetpgrp(shell.master)}
    os.killpg(group, signal.SIGTERM)
    await shell.wait_for("got SIGTERM")
    shell.type(b"exit\n")
    await shell.end()
    assert shell.text.count("got SIGINT") == 1


@pytest.mark.parametrize("target", ["$!", "%1"], ids=["us alone", "the whole group"])
async def test_a_stop_and_a_continue_sent_by_another_process(ctl: Ctl, manager: ScriptedManager, target: str) -> None:
    shell = await Screen.start(ctl, argv=("bash", "--norc", "--noprofile", "-i"), PS1="prompt> ", LISTENER=LISTENER)
    await shell.wait_for("prompt> ")
    command = " ".join(shlex.quote(word) for word in (*COMMAND, "run", "-q", "mvoice", "--", "python3", "-c"))
    shell.type(f'{command} "$LISTENER" &\n'.encode())
    await shell.wait_for("ready\r\n")
    shell.type(f"kill -TSTP {target}; wait $!\n".encode())
    await shell.wait_for("Stopped")
    shell.type(f"kill -CONT {target}\n".encode())
    await shell.wait_for("got SIGCONT")
    shell.type(b"kill -USR1 $!\n")
    await shell.wait_for("got SIGUSR1")
    shell.type(b"kill -TERM $!; wait $!; echo status $?; exit\n")
    await shell.wait_for("status 7")
    await shell.end()


async def test_signals_ignored_at_start_stay_ignored(ctl: Ctl, manager: ScriptedManager) -> None:
    script = "trap '' HUP; exec \"$@\""
    inner = "kill -HUP $PPID; kill -HUP $$; echo survived"
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", script, "sh", "python3", "-m", "gpumand.cli", "run", "mvoice", "--", "sh", "-c", inner),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=ctl.env({"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}),
    )
    result = await finished(process)
    assert (result.code, result.out) == (0, "survived\n")


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT"])
async def test_a_signal_while_waiting_withdraws_the_request(
    ctl: Ctl, manager: ScriptedManager, name: str, tmp_path: Path
) -> None:
    manager.answers["Acquire"] = never
    process = await ctl.start("run", "mvoice", "--", "touch", str(tmp_path / "ran"))
    async with asyncio.timeout(LIMIT_SEC):
        await manager.acquiring.wait()
    number = getattr(signal, "SIG" + name)
    process.send_signal(number)
    result = await finished(process)
    assert (result.code, result.out, result.err) == (-number, "", "")
    assert not (tmp_path / "ran").exists()
    await manager.wait_gone(manager.callers[0])


async def test_a_revoked_lease_is_reported_once_and_the_command_continues(ctl: Ctl, manager: ScriptedManager) -> None:
    process = await listener(ctl)
    manager.emit("LeaseEnded", "sss", "another", "mvoice", "revoked")
    manager.emit("LeaseEnded", "sss", LEASE, "mvoice", "revoked")
    manager.emit("LeaseEnded", "sss", LEASE, "mvoice", "revoked")
    assert process.stderr is not None
    async with asyncio.timeout(LIMIT_SEC):
        line = (await process.stderr.readline()).decode()
    assert line == "gpumanctl: the lease on mvoice was lost: revoked; python3 continues without it\n"
    process.send_signal(signal.SIGTERM)
    result = await finished(process)
    assert (result.code, result.err) == (7, "")


async def test_kill_on_loss_ends_the_command(ctl: Ctl, manager: ScriptedManager) -> None:
    process = await listener(ctl, "--kill-on-loss")
    manager.emit("LeaseEnded", "sss", LEASE, "mvoice", "revoked")
    result = await finished(process)
    assert result.code == 7
    assert "ending python3" in result.err


async def test_the_loss_of_the_bus_does_not_end_the_command(
    ctl: Ctl, bus: PrivateBus, manager: ScriptedManager
) -> None:
    process = await listener(ctl)
    bus.kill()
    assert process.stderr is not None
    async with asyncio.timeout(LIMIT_SEC):
        line = (await process.stderr.readline()).decode()
    assert line.startswith("gpumanctl: the lease on mvoice was lost: the bus closed the connection")
    process.send_signal(signal.SIGTERM)
    assert (await finished(process)).code == 7


async def test_signals_of_other_bus_clients_are_ignored(ctl: Ctl, bus: PrivateBus, manager: ScriptedManager) -> None:
    from gpumand.bus.connection import BusConnection
    from gpumand.bus.names import MANAGER, ROOT_PATH

    process = await listener(ctl, "--kill-on-loss")
    impostor = await BusConnection.connect(bus.address)
    impostor.emit(ROOT_PATH, MANAGER, "LeaseEnded", "sss", (LEASE, "mvoice", "revoked"))
    await impostor.close()
    manager.emit_changed("/org/gpumand1/consumer/mvoice", CONSUMER, Residency="resident")
    process.send_signal(signal.SIGTERM)
    result = await finished(process)
    assert (result.code, result.err) == (7, "")


@pytest.mark.parametrize("is_kept", [True, False])
async def test_a_lease_missing_after_a_restart_is_lost(
    ctl: Ctl, bus: PrivateBus, manager: ScriptedManager, is_kept: bool
) -> None:
    process = await listener(ctl, "--kill-on-loss")
    manager.connection._disconnect("killed by the test")
    status_read = asyncio.Event()

    def answer(call: IncomingCall) -> Reply:
        status_read.set()
        leases = [samples.lease(id=LEASE)] if is_kept else []
        return Reply("a{sv}", (variants(samples.status(leases=leases)),))

    successor = ScriptedManager(await BusConnection.connect(bus.address))
    successor.answers["GetStatus"] = answer
    successor.connection.serve(successor.answer)
    await successor.connection.request_name(BUS_NAME)
    async with asyncio.timeout(LIMIT_SEC):
        await status_read.wait()
    if is_kept:
        process.send_signal(signal.SIGTERM)  # it would run on otherwise
    result = await finished(process)
    assert result.code == 7
    assert result.err.endswith("gpumand restarted without it; ending python3\n") is not is_kept
    await successor.connection.close()
