"""``top`` on a terminal: its screen in an emulator, its keys, and the restored terminal."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pwd
import re
import signal
import struct
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyte

from gpumand.bus.connection import Reply
from gpumand.domain.errors import AccessDenied
from tests.integration.cli.ctl import COMMAND, LIMIT_SEC, Ctl, Screen
from tests.integration.cli.manager import ScriptedManager, dictionary, failing, variants
from tests.integration.cli.world import world
from tests.unit.cli import samples


class Emulator:
    """A terminal emulator that shows what a person would see on a Screen."""

    def __init__(self, screen: Screen, columns: int = 80, rows: int = 24) -> None:
        self.screen = screen
        self.display = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.display)
        self._fed = 0

    @property
    def lines(self) -> list[str]:
        """The lines of the screen, without spaces at their ends."""
        seen = self.screen.seen
        new, self._fed = seen[self._fed :], len(seen)
        self._stream.feed(new)
        return [line.rstrip() for line in self.display.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def resize(self, columns: int, rows: int) -> None:
        """Resize the terminal window."""
        self.display.resize(rows, columns)
        fcntl.ioctl(self.screen.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def until(self, what: str, condition: Callable[[list[str]], bool]) -> list[str]:
        """The lines as soon as the condition holds. Raises AssertionError after the time limit."""
        deadline = asyncio.get_running_loop().time() + LIMIT_SEC
        while not condition(self.lines):
            assert asyncio.get_running_loop().time() < deadline, f"never seen: {what}. The screen shows:\n{self.text}"
            await asyncio.sleep(0.02)
        return self.lines

    async def shows(self, text: str) -> list[str]:
        return await self.until(text, lambda lines: text in "\n".join(lines))

    async def hides(self, text: str) -> list[str]:
        return await self.until(f"no {text}", lambda lines: text not in "\n".join(lines))


@asynccontextmanager
async def top(ctl: Ctl, *args: str, columns: int = 80, rows: int = 24, **changes: str) -> AsyncIterator[Emulator]:
    """A running ``top`` that shows its first status; it is killed at the end if it still runs."""
    changes = {"LC_ALL": "C.UTF-8"} | changes
    screen = await Screen.start(ctl, "top", *args, columns=columns, rows=rows, **changes)
    emulator = Emulator(screen, columns, rows)
    try:
        await emulator.shows("CONSUMER")
        yield emulator
    finally:
        if screen.process.returncode is None:
            screen.process.kill()
        await screen.process.wait()


def modes(emulator: Emulator) -> list[Any]:
    """The settings of the terminal."""
    return termios.tcgetattr(emulator.screen.master)


def entered_and_left(seen: bytes) -> tuple[int, int]:
    """How often the alternate screen was entered, and left."""
    return seen.count(b"\x1b[?1049h"), seen.count(b"\x1b[?1049l")


async def test_screen_of_80_by_24_and_q_restores_the_terminal(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, ctl):
        await ctl("load", "comfyui")
        async with top(ctl) as emulator:
            lines = emulator.lines
            assert re.match(r"● gpumand \S+ 1 of 3 consumers resident, 0 leases +\d\d:\d\d:\d\d$", lines[0])
            assert lines[1].startswith("GPU 0  Simulated GPU")
            assert lines[2].startswith("  [█")
            assert any(line.startswith("▸ mvoice") for line in lines)
            assert lines[-1].startswith(" l load  e evict")
            assert not modes(emulator)[3] & (termios.ICANON | termios.ECHO)
            assert emulator.display.cursor.hidden
            emulator.screen.type(b"q")
            assert await emulator.screen.end() == 0
            assert entered_and_left(emulator.screen.seen) == (1, 1)
            assert not (emulator.lines and emulator.display.cursor.hidden)


async def test_keys_load_pin_and_evict_and_actions_of_others_are_shown(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, ctl), top(ctl) as emulator:
        emulator.screen.type(b"j")
        await emulator.shows("▸ comfyui")
        emulator.screen.type(b"l")
        await emulator.shows("comfyui loaded on GPU 0 in")
        emulator.screen.type(b"p")
        await emulator.shows("comfyui is pinned")
        emulator.screen.type(b"e")
        await emulator.shows("comfyui is pinned; press E to evict it by force")
        emulator.screen.type(b"E")
        await emulator.shows("Evict comfyui by force although it is pinned? y = yes, any other key = no")
        emulator.screen.type(b"n")
        await emulator.shows("cancelled")
        emulator.screen.type(b"p")
        await emulator.shows("comfyui is no longer pinned")
        emulator.screen.type(b"e")
        await emulator.shows("Evict comfyui? y = yes, any other key = no")
        emulator.screen.type(b"y")
        await emulator.shows("comfyui evicted by http, 13.0 GiB freed")
        await emulator.shows("manual; by http")
        lease = (await ctl("acquire", "llm", "--reason", "chat")).out.strip()
        await emulator.shows(lease[:6])
        assert lease not in emulator.text
        await ctl("release", lease)
        await emulator.hides(lease[:6])


async def test_force_revokes_a_lease_after_confirmation(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, ctl):
        lease = (await ctl("acquire", "mvoice")).out.strip()
        async with top(ctl) as emulator:
            await emulator.shows(lease[:6])
            emulator.screen.type(b"E")
            await emulator.shows("Evict mvoice by force and revoke 1 lease held by ")
            emulator.screen.type(b"y")
            await emulator.shows("mvoice evicted by http")
            await emulator.hides(lease[:6])


async def test_keys_renew_and_release_a_lease(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, ctl):
        lease = (await ctl("acquire", "mvoice", "--ttl", "1h", "--reason", "chat")).out.strip()
        async with top(ctl, columns=120, rows=40) as emulator:
            emulator.screen.type(b"2")
            await emulator.until("the lease is selected", lambda lines: any(line.startswith("▸ ") for line in lines))
            assert await emulator.shows("█ 59 min") or await emulator.shows("█ 1 h")
            emulator.screen.type(b"n")
            await emulator.shows(f"lease {lease[:6]} on mvoice ends in 1 h")
            emulator.screen.type(b"r")
            await emulator.shows(f"Release lease {lease[:6]} on mvoice (")
            emulator.screen.type(b"y")
            await emulator.shows(f"lease {lease[:6]} on mvoice is released")
            await emulator.shows("2 leases 0")


async def test_key_cancels_a_waiting_request_and_its_program_gets_the_error(tmp_path: Path) -> None:
    async with world(tmp_path, scheduler="concurrent_leases = 1") as (_, ctl):
        await ctl("acquire", "mvoice", "--ttl", "1h")
        waiting = asyncio.create_task(ctl("acquire", "llm", "--timeout", "10min", "--reason", "letter"))
        async with top(ctl, columns=120, rows=40) as emulator:
            await emulator.shows("3 queue 1")
            emulator.screen.type(b"c")
            await emulator.shows("press c again")
            emulator.screen.type(b"c")
            await emulator.shows("Cancel the request for llm (")
            emulator.screen.type(b"y")
            await emulator.shows("the request for llm is cancelled")
            await emulator.shows("3 queue 0")
        result = await waiting
        assert result.code == 1
        assert "cancelled by " in result.err


async def test_command_cancels_a_request_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    async with world(tmp_path, scheduler="concurrent_leases = 1") as (_, ctl):
        await ctl("acquire", "mvoice", "--ttl", "1h")
        waiting = asyncio.create_task(ctl("acquire", "llm", "--timeout", "10min"))
        async with top(ctl, columns=120, rows=40) as emulator:
            await emulator.shows("3 queue 1")
        table = (await ctl("status")).out
        request = next(line.split()[-1] for line in table.splitlines() if "leased to mvoice" in line)
        assert (await ctl("cancel", request)).code == 0, table
        assert (await waiting).code == 1
        unknown = await ctl("cancel", request)
        assert (unknown.code, "gpumanctl status" in unknown.err) == (4, True)


async def test_mouse_selects_scrolls_sorts_and_presses_keys(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, ctl), top(ctl, columns=120, rows=40) as emulator:
        assert b"\x1b[?1000h\x1b[?1006h" in emulator.screen.seen
        await click_on(emulator, "llm")
        await emulator.shows("▸ llm")
        await click_on(emulator, "CONSUMER")
        await emulator.shows("consumers in the order of memory")
        row = place_of(emulator.lines, "comfyui")[1]
        emulator.screen.type(f"\x1b[<64;5;{row + 1}M".encode())
        await emulator.until("moved", lambda lines: "▸ llm" not in "\n".join(lines))
        await click_on(emulator, "help")
        await emulator.shows("Press any key to go back.")
        emulator.screen.type(b"\x1b[<0;3;3M")
        await emulator.shows("CONSUMER")
        emulator.screen.type(b"m")
        await emulator.until("off", lambda _: b"\x1b[?1006l\x1b[?1000l" in emulator.screen.seen)
        await click_on(emulator, "quit")  # ignored: a real terminal would not send it
        emulator.screen.type(b"q")
        assert await emulator.screen.end() == 0


def place_of(lines: list[str], text: str) -> tuple[int, int]:
    """Column and line of the first place of a text; the last lines count only if no other has it."""
    line = next(number for number, line in enumerate(lines) if text in line)
    return lines[line].index(text), line


async def click_on(emulator: Emulator, text: str) -> None:
    column, line = place_of(await emulator.shows(text), text)
    emulator.screen.type(f"\x1b[<0;{column + 1};{line + 1}M\x1b[<0;{column + 1};{line + 1}m".encode())


async def test_mouse_is_off_with_its_option_and_restored_at_the_end(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["GetHistory"] = history_of([])
    async with top(ctl, "--no-mouse") as emulator:
        emulator.screen.type(b"q")
        assert await emulator.screen.end() == 0
        assert b"?1000" not in emulator.screen.seen
    async with top(ctl) as emulator:
        emulator.screen.type(b"q")
        assert await emulator.screen.end() == 0
        assert emulator.screen.seen.rindex(b"\x1b[?1000l") > emulator.screen.seen.rindex(b"\x1b[?1000h")


async def test_themes_use_the_sixteen_colors_and_mono_none(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["GetHistory"] = history_of([])
    async with top(ctl) as emulator:
        emulator.screen.type(b"t")
        await emulator.shows("colors: blue")
        emulator.screen.type(b"q")
        assert await emulator.screen.end() == 0
        assert not re.search(rb"\x1b\[[0-9;]*[34]8;[25];", emulator.screen.seen)
        assert re.search(rb"\x1b\[[0-9;]*3[0-7]m", emulator.screen.seen)
    async with top(ctl, "--theme", "mono") as emulator:
        assert "[aaaa" in emulator.text
        emulator.screen.type(b"q")
        assert await emulator.screen.end() == 0
        assert not re.search(rb"\x1b\[(?:[0-9;]*;)?(?:3|9)[0-7]m", emulator.screen.seen)


async def test_processes_are_shown_with_command_line_and_user(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, ctl):
        await ctl("load", "comfyui")
        async with top(ctl, columns=160, rows=40) as emulator:
            await emulator.shows("4 processes 1")
            emulator.screen.type(b"4")
            await emulator.shows("-m gpumand.testing.consumer")
            user = pwd.getpwuid(os.getuid()).pw_name
            lines = await emulator.until("the user", lambda lines: any("▸ " in one and user in one for one in lines))
            row = next(line for line in lines if "▸" in line)
            assert "comfyui" in row
            assert "13.0 GiB" in row


async def test_refused_action_is_one_line_and_the_screen_continues(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["GetHistory"] = history_of([])
    manager.answers["Load"] = failing(AccessDenied("uid 1000 may not load mvoice"))
    async with top(ctl) as emulator:
        emulator.screen.type(b"l")
        lines = await emulator.shows("permission denied: uid 1000 may not load mvoice")
        assert "Traceback" not in "\n".join(lines)
        emulator.screen.type(b"?")
        await emulator.shows("Press any key to go back.")
        emulator.screen.type(b"x")
        await emulator.shows("CONSUMER")


def history_of(entries: list[Any]) -> Any:
    return lambda _: Reply("aa{sv}", (entries,))


EVICTION = {"at_usec": samples.NOW, "kind": "eviction", "consumer": "comfyui", "device": "0", "mib": 13312}


async def test_late_answer_does_not_undo_a_key(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["GetHistory"] = history_of([])
    async with top(ctl, "--interval", "30s") as emulator:
        called, may_answer = asyncio.Event(), asyncio.Event()

        async def late(_: Any) -> Reply:
            called.set()
            await may_answer.wait()
            return Reply("aa{sv}", ([variants(EVICTION)],))

        manager.answers["GetHistory"] = late
        manager.emit("EvictionOccurred", "sstssa{sv}", "comfyui", "0", 13312, "http", "mvoice", {})
        async with asyncio.timeout(LIMIT_SEC):
            await called.wait()
        emulator.screen.type(b"j")
        await emulator.shows("▸ mvoice")
        may_answer.set()
        await emulator.shows("evicted  comfyui")
        assert "▸ mvoice" in emulator.text


async def test_daemon_that_leaves_and_returns_is_shown(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl), top(ctl) as emulator:
        await host.end(signal.SIGKILL)
        await emulator.shows("gpumand left the bus; waiting for it to return; last known state:")
        await host.start()
        await emulator.hides("left the bus")


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
