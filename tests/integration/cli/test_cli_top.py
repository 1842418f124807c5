"""``top`` on a terminal: its screen in an emulator, its keys, and the restored terminal."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import signal
import termios
from pathlib import Path
from typing import Any

from gpumand.bus.connection import Reply
from gpumand.domain.errors import AccessDenied
from tests.integration.cli.ctl import LIMIT_SEC, Ctl
from tests.integration.cli.manager import ScriptedManager, failing, variants
from tests.integration.cli.top_emulator import Emulator, entered_and_left, history_of, modes, top
from tests.integration.cli.world import world
from tests.unit.cli import samples


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
