"""``top`` and its terminal: sizes, signals, job control, unsupported terminals, and output without a terminal."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import termios
from pathlib import Path
from typing import Any

from tests.integration.cli.ctl import COMMAND, LIMIT_SEC, Ctl, Screen
from tests.integration.cli.manager import ScriptedManager, dictionary
from tests.integration.cli.top_emulator import Emulator, entered_and_left, history_of, modes, top
from tests.unit.cli import samples


async def test_lost_bus_ends_top_with_one_line_on_a_restored_terminal(
    ctl: Ctl, manager: ScriptedManager, bus: Any
) -> None:
    manager.answers["GetHistory"] = history_of([])
    async with top(ctl) as emulator:
        bus.kill()
        assert await emulator.screen.end() == 1
        assert entered_and_left(emulator.screen.seen) == (1, 1)
        after = emulator.screen.seen.rpartition(b"\x1b[?1049l")[2].decode()
        assert "gpumanctl: the connection to the bus was lost" in after
        assert "Traceback" not in after


async def test_resize_redraws_and_small_screens_keep_the_consumers(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["GetHistory"] = history_of([])
    many = [samples.consumer(f"{number:02}-consumer-with-a-rather-long-name") for number in range(30)]
    manager.answers["GetStatus"] = dictionary(samples.status(queue=[], consumers=many))
    async with top(ctl, "--interval", "30s") as emulator:
        await emulator.shows("more")
        emulator.resize(120, 40)
        lines = await emulator.until("a wide screen", lambda lines: len(lines) == 40 and bool(lines[39]))
        assert "RTX 4090 (nvml)  16.3 of 24.0 GiB" in lines[1]
        emulator.resize(40, 7)
        lines = await emulator.until("a small screen", lambda lines: any("28 more" in line for line in lines))
        assert any(line.startswith("▸ 00-consumer") for line in lines)
        assert not any("GPU 0" in line for line in lines)
        emulator.screen.type(b"\x1b[F")
        await emulator.shows("▸ 29-consumer")


async def test_only_changed_lines_are_written(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["GetHistory"] = history_of([])
    async with top(ctl, "--interval", "0.1s") as emulator:
        first = len(emulator.screen.seen)
        called = asyncio.Event()
        plain, left = manager.answers["GetStatus"], iter(range(10))

        def status(call: Any) -> Any:
            if next(left, None) is None:
                called.set()
            return plain(call)

        manager.answers["GetStatus"] = status
        async with asyncio.timeout(LIMIT_SEC):
            await called.wait()
        written = emulator.screen.seen[first:]
        assert b"\x1b[2J" not in written
        assert len(written) < 10 * 250, "whole frames were written again"


async def test_ascii_terminal_without_colors(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["GetHistory"] = history_of([])
    async with top(ctl, NO_COLOR="1", LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0") as emulator:
        emulator.screen.type(b"q")
        assert await emulator.screen.end() == 0
        assert emulator.screen.seen.isascii()
        assert not re.search(rb"\x1b\[[1-9][0-9;]*m", emulator.screen.seen)


async def test_sigterm_restores_the_terminal_and_is_the_exit_status(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["GetHistory"] = history_of([])
    async with top(ctl) as emulator:
        emulator.screen.process.send_signal(signal.SIGTERM)
        assert await emulator.screen.end() == -signal.SIGTERM
        assert entered_and_left(emulator.screen.seen) == (1, 1)


async def test_ctrl_c_ctrl_d_and_escape_quit_without_an_error(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["GetHistory"] = history_of([])
    for key in (b"\x03", b"\x1b", b"\x04"):
        async with top(ctl) as emulator:
            emulator.screen.type(key)
            assert await emulator.screen.end() == 0
            assert entered_and_left(emulator.screen.seen) == (1, 1)


async def test_ctrl_z_restores_the_terminal_and_fg_takes_it_over_again(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["GetHistory"] = history_of([])
    shell = await Screen.start(ctl, argv=("bash", "--norc", "--noprofile", "-i"), PS1="prompt> ", LC_ALL="C.UTF-8")
    emulator = Emulator(shell)
    shell.type(f"{' '.join(COMMAND)} top\n".encode())
    for times in (1, 2):
        await emulator.shows("CONSUMER")
        assert not modes(emulator)[3] & (termios.ICANON | termios.ECHO)
        shell.type(b"\x1a")
        await emulator.shows("Stopped")
        assert entered_and_left(shell.seen) == (times, times)
        assert "CONSUMER" not in emulator.text
        shell.type(b"clear; fg\n")
    await emulator.shows("CONSUMER")
    shell.type(b"q")
    await emulator.hides("CONSUMER")
    shell.type(b"echo status $?\n")
    await emulator.shows("status 0")
    shell.type(b"exit\n")
    assert await shell.end() == 0


async def test_ctrl_z_without_a_shell_changes_nothing(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["GetHistory"] = history_of([])
    async with top(ctl) as emulator:
        emulator.screen.type(b"\x1a")
        await emulator.until("the screen was drawn again", lambda _: entered_and_left(emulator.screen.seen) == (2, 1))
        await emulator.shows("CONSUMER")
        emulator.screen.type(b"q")
        assert await emulator.screen.end() == 0


async def test_screen_is_drawn_again_after_sigstop_and_sigcont(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["GetHistory"] = history_of([])
    async with top(ctl, "--interval", "30s") as emulator:
        pid = emulator.screen.process.pid
        os.kill(pid, signal.SIGSTOP)
        await emulator.until("it has stopped", lambda _: state_of(pid) == "T")
        emulator.display.reset()
        os.kill(pid, signal.SIGCONT)
        await emulator.shows("CONSUMER")
        emulator.screen.type(b"q")
        assert await emulator.screen.end() == 0


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def test_without_a_terminal_the_error_names_the_alternatives(ctl: Ctl, manager: ScriptedManager) -> None:
    result = await ctl("top")
    assert (result.code, result.out) == (1, "")
    assert result.err == "gpumanctl: top needs a terminal; use: gpumanctl status, or gpumanctl top --once\n"


async def test_dumb_terminal_is_refused(ctl: Ctl, manager: ScriptedManager) -> None:
    screen = await Screen.start(ctl, "top", TERM="dumb")
    assert await screen.end() == 1
    assert "top needs a terminal" in screen.text
    assert "\x1b" not in screen.text


async def test_once_prints_one_frame_of_the_given_size(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["GetHistory"] = history_of([])
    result = await ctl("top", "--once", COLUMNS="60", LINES="18", PYTHONIOENCODING="utf-8")
    lines = result.out.splitlines()
    assert (result.code, len(lines)) == (0, 18)
    assert max(map(len, lines)) <= 60
    assert "\x1b" not in result.out


async def test_svg_option_writes_a_picture(ctl: Ctl, manager: ScriptedManager, tmp_path: Path) -> None:
    manager.answers["GetHistory"] = history_of([])
    picture = tmp_path / "top.svg"
    result = await ctl("top", "--svg", str(picture), COLUMNS="100", LINES="20")
    assert (result.code, result.out, result.err) == (0, "", "")
    text = picture.read_text()
    assert text.startswith("<svg")
    assert "comfyui" in text
    refused = await ctl("top", "--svg", str(tmp_path / "no" / "top.svg"))
    assert (refused.code, refused.err.strip()[-25:]) == (1, "No such file or directory")


async def test_invalid_options_are_usage_errors(ctl: Ctl) -> None:
    assert (await ctl("top", "--json")).code == 2
    assert (await ctl("top", "--interval", "1ms")).code == 2


async def test_top_without_a_daemon_exits_3_and_does_not_touch_the_screen(ctl: Ctl) -> None:
    screen = await Screen.start(ctl, "top")
    assert await screen.end() == 3
    assert "\x1b[?1049h" not in screen.text
