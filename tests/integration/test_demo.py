"""The demonstration: it succeeds, reports a misbehaving service, and leaves nothing behind.

docs/quickstart.md shows its command, docs/guide/what-happens.md its faults.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pyte
import pytest

from gpumand.demo.fault_host import SERVICES, FaultHost, NotSeen
from gpumand.demo.faults import crash_at_start, late_free, lying_unload
from tests.integration.cli.ctl import Ctl, Result, Screen

ROOT = Path(__file__).resolve().parents[2]
DEMO = (sys.executable, "-m", "gpumand.demo")
LIMIT_SEC = 170
WITHOUT_CLIENTS = """
import importlib.util, shutil
find, which = importlib.util.find_spec, shutil.which
importlib.util.find_spec = lambda name, *rest: None if name in ("openai", "ollama") else find(name, *rest)
shutil.which = lambda name, *rest: None if name == "curl" else which(name)
"""
"""Executed at the start of every Python of a test: neither the client packages nor curl are installed."""

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for the files of the demonstration; not under tmp_path, whose name is too long for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="gd-"))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture(autouse=True)
def nothing_is_left(temporary: Path) -> object:
    yield
    left = [str(path) for path in temporary.iterdir()]
    if not left:
        temporary.rmdir()
    assert left == []
    running = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if str(temporary) in _read(path)]
    assert running == []


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


async def start(*args: str, **changes: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *DEMO,
        *args,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        env=os.environ | changes,
        start_new_session=True,
    )


async def finished(process: asyncio.subprocess.Process) -> Result:
    try:
        async with asyncio.timeout(LIMIT_SEC):
            out, err = await process.communicate()
    except TimeoutError:
        process.send_signal(signal.SIGTERM)
        await process.communicate()
        raise AssertionError("the demonstration did not end") from None
    return Result(process.returncode or 0, out.decode(), err.decode())


async def test_scenario_succeeds_and_counts_every_check() -> None:
    result = await finished(await start("--verbose"))
    assert (result.code, result.err) == (0, "")
    assert "\x1b" not in result.out
    assert len(re.findall(r"» evicted ", result.out)) == 1
    assert re.search(r"evicted comfyui from GPU 0 by http: 13\.0 GiB freed in .* to make room for llm", result.out)
    assert "✓ mvoice was not touched and still uses 2.8 GiB" in result.out
    assert "✓ the openai package got: qwen3 says hello" in result.out
    assert "✓ the ollama package got: gemma3 says hello" in result.out
    assert "✓ curl got its answer from gemma3" in result.out
    (number,) = re.findall(r"All (\d+) checks passed", result.out)
    assert len(re.findall(r"^    ✓ ", result.out, re.MULTILINE)) == int(number) >= 55


async def test_story_fits_a_terminal_of_24_lines_together_with_its_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.integration.cli.ctl.LIMIT_SEC", LIMIT_SEC)
    screen = await Screen.start(Ctl(""), argv=DEMO)
    for text in ("The plan for", "A lease on llm", "Unchanged programs", "Both at once", "demo --run"):
        await screen.wait_for(text)
    assert await screen.end() == 0
    terminal = pyte.HistoryScreen(80, 24)
    pyte.ByteStream(terminal).feed(screen.seen)
    assert len(terminal.history.top) == 0, "lines were scrolled off the terminal"
    used = [line for line in terminal.display if line.strip()]
    assert len(used) <= 23, "no line is left for the prompt"
    assert "simulated GPU" in used[0]


async def test_story_in_a_log_needs_nothing_but_an_installed_gpumand(tmp_path: Path) -> None:
    """gpumanctl starts it, without the packages openai and ollama, and imports nothing from the current directory."""
    (tmp_path / "here/gpumand").mkdir(parents=True)
    (tmp_path / "here/gpumand/__init__.py").write_text("raise SystemExit('the wrong gpumand')\n")
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_CLIENTS)
    path = os.pathsep.join(filter(None, [str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = (sys.executable, "-P", "-m", "gpumand.cli", "demo")
    pipe, environ = asyncio.subprocess.PIPE, os.environ | {"PYTHONPATH": path}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=pipe, stderr=pipe, cwd=tmp_path / "here", env=environ
    )
    result = await finished(process)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines[:-2])) <= 80
    words = " ".join(result.out.split())
    assert re.search(r"the GPU shows 13\.0 GiB free after .* Then llm is loaded", words)
    assert re.search(r"leased is refused\n    comfyui needs 13.0 GiB, but 14.0 GiB", result.out)
    assert 'Python\'s urllib at /v1/chat/completions: "qwen3 says hello"' in words
    assert int(re.findall(r"All (\d+) checks passed", result.out)[0]) >= 55


async def test_faults_have_the_expected_outcome() -> None:
    result = await finished(await start("--faults"))
    assert (result.code, result.err) == (0, ""), result.out
    assert len(re.findall(r"^    expected: ", result.out, re.MULTILINE)) == 7
    assert len(re.findall(r"^    seen:     ", result.out, re.MULTILINE)) == 7
    assert "render-job" in result.out
    assert result.out.splitlines()[-1].startswith(" All 7 faults had the expected outcome")


@pytest.mark.parametrize(
    ("fault", "healthy", "why"),
    [
        (late_free, "late", "late frees its memory late"),
        (lying_unload, "liar", "liar.service is stopped"),
        (crash_at_start, "broken", "the request for broken was granted"),
    ],
)
async def test_fault_that_does_not_occur_is_reported(
    fault: Callable[[FaultHost], Awaitable[str]], healthy: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks can fail: a service without its fault does not have the outcome of the fault."""
    services = tuple(replace(one, flags=(), command=()) if one.name == healthy else one for one in SERVICES)
    monkeypatch.setattr("gpumand.demo.fault_host.SERVICES", services)
    async with FaultHost() as host:
        with pytest.raises(NotSeen, match=why):
            await fault(host)


@pytest.mark.parametrize(
    ("fault", "step", "error_name"),
    [
        ("comfyui:lying-unload", "step 5", "EvictionFailed"),
        ("comfyui:partial-unload:mib=1000,on=unload", "step 5", "EvictionFailed"),
        ("mvoice:refuse-load", "step 3", "LoadFailed"),
        ("llm:crash", "step 5", "LoadFailed"),
    ],
)
async def test_misbehaving_service_fails_the_demonstration(fault: str, step: str, error_name: str) -> None:
    result = await finished(await start("--fault", fault))
    assert result.code == 1
    last = result.err.splitlines()[-1]
    assert last.startswith(f"demo: FAILED: {step} (")
    assert error_name in last
    assert "checks passed" not in result.out


async def test_ctrl_c_stops_everything_and_restores_the_screen() -> None:
    screen = await Screen.start(Ctl(""), argv=DEMO)
    await screen.wait_for("mvoice   unloaded")
    await screen.wait_for("Leases on comfyui")
    screen.type(b"\x03")
    assert await screen.end() == 130
    assert "All processes of the demonstration have been stopped" in screen.text
    assert "Traceback" not in screen.text
    assert screen.text.rindex("\x1b[?25h") > screen.text.rindex("\x1b[?25l")


async def test_sigterm_during_the_start_leaves_nothing_behind() -> None:
    process = await start()
    assert process.stdout is not None
    await process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    result = await finished(process)
    assert (result.code, "Traceback" in result.err) == (130, False)


async def test_run_keeps_everything_running_and_its_commands_work() -> None:
    process = await start("--run")
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(LIMIT_SEC):
        while not lines or "monitor" not in lines[-1]:
            lines.append((await process.stdout.readline()).decode().rstrip())
        rest = [line async for line in _rest(process.stdout)]
    (page,) = [line.split()[-1] for line in lines if "Web page" in line]
    assert "<title>" in await asyncio.to_thread(fetched, page)
    commands = [line for line in [*lines, *rest] if line.startswith("  ") and "monitor" not in line]
    assert len(commands) >= 8
    executed = await asyncio.create_subprocess_exec(
        *("bash", "-e", "-c", "\n".join(commands)), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(LIMIT_SEC):
        output, _ = await executed.communicate()
    assert executed.returncode == 0, output.decode()
    process.send_signal(signal.SIGINT)
    result = await finished(process)
    assert result.code == 0
    assert "evicted comfyui from GPU 0 by http" in result.out


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


async def _rest(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """The lines up to the next empty one."""
    while (line := (await stream.readline()).decode().rstrip()) != "":
        yield line


async def test_missing_dbus_daemon_is_reported_with_the_command_that_installs_it(tmp_path: Path) -> None:
    manager = tmp_path / "dnf"
    manager.write_text("#!/bin/sh\n")
    manager.chmod(0o755)
    result = await without_dbus_daemon(tmp_path)
    assert (result.code, result.out) == (1, "")
    sudo = "" if os.geteuid() == 0 else "sudo "
    assert result.err == f"demo: dbus-daemon is not installed. Install it with: {sudo}dnf install -y dbus-daemon\n"


async def without_dbus_daemon(path: Path) -> Result:
    """Run the demonstration with this folder as the only one in PATH."""
    process = await asyncio.create_subprocess_exec(
        *DEMO,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PATH": str(path)},
    )
    return await finished(process)
