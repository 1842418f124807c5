"""Every command against a scripted manager: its calls, its output and its exit code."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest
from dbus_fast import Variant

from gpumand.bus.connection import Reply
from gpumand.client.calls import ANSWER_SEC
from gpumand.version import VERSION
from tests.integration.cli.ctl import LIMIT_SEC, Ctl, finished
from tests.integration.cli.manager import LEASE, ScriptedManager, dictionary, grant, outcome, replying
from tests.unit.cli import samples


async def test_gpumanctl_without_a_command_shows_the_status(ctl: Ctl, manager: ScriptedManager) -> None:
    bare, status = await ctl(), await ctl("status")
    assert bare.code == status.code == 0
    assert bare.out.splitlines()[0] == "● gpumand 0.1.0: 2 of 3 consumers resident, 1 lease"
    assert bare.out.splitlines()[0] == status.out.splitlines()[0]
    assert bare.err == ""


@pytest.mark.parametrize("args", [("--json",), ("--json", "status"), ("status", "--json")])
async def test_status_as_json_has_the_keys_of_the_bus(
    ctl: Ctl, manager: ScriptedManager, args: tuple[str, ...]
) -> None:
    result = await ctl(*args)
    assert json.loads(result.out) == samples.status(queue=[])
    assert (result.code, result.err) == (0, "")


async def test_list_shows_the_consumers_only(ctl: Ctl, manager: ScriptedManager) -> None:
    text, document = await ctl("list", "--no-legend"), await ctl("--json", "list")
    assert [line.split()[0] for line in text.out.splitlines()] == ["comfyui", "mvoice", "llm"]
    assert json.loads(document.out) == samples.status()["consumers"]


async def test_acquire_prints_the_id_alone(ctl: Ctl, manager: ScriptedManager) -> None:
    result = await ctl("acquire", "mvoice")
    assert (result.code, result.out, result.err) == (0, f"{LEASE}\n", "")
    ((member, (consumer, options)),) = manager.calls
    assert (member, consumer, len(options.pop("token"))) == ("Acquire", "mvoice", 32)
    assert options == {"lifetime": "ttl", "timeout_usec": 20_000_000}


async def test_acquire_passes_every_option_on(ctl: Ctl, manager: ScriptedManager) -> None:
    where = ("--device", "GPU-5f1c", "--reason", "poster", "--token", "t1")
    await ctl("acquire", "--ttl", "1h30m", "--timeout", "5min", "--priority", "-7", *where, "mvoice")
    assert manager.options_of("Acquire") == {
        "lifetime": "ttl",
        "ttl_usec": 5_400_000_000,
        "timeout_usec": 300_000_000,
        "priority": -7,
        "device": "GPU-5f1c",
        "reason": "poster",
        "token": "t1",
    }


@pytest.mark.parametrize(("option", "usec"), [("--no-wait", 0), ("--wait", 86_400_000_000)])
async def test_wait_options_set_the_timeout(ctl: Ctl, manager: ScriptedManager, option: str, usec: int) -> None:
    await ctl("acquire", "mvoice", option, "--lifetime", "unit")
    options = manager.options_of("Acquire")
    assert (options["lifetime"], options["timeout_usec"]) == ("unit", usec)


async def test_acquire_as_json(ctl: Ctl, manager: ScriptedManager) -> None:
    result = await ctl("acquire", "mvoice", "--json", "-v")
    assert json.loads(result.out) == {"lease": LEASE, "grant": grant()}


async def test_the_lease_id_is_printed_before_the_details_are_read(ctl: Ctl, manager: ScriptedManager) -> None:
    status_requested = asyncio.Event()

    async def never(_: object) -> Reply:
        status_requested.set()
        await asyncio.Event().wait()
        raise AssertionError

    manager.answers["GetStatus"] = never
    process = await ctl.start("-v", "acquire", "mvoice")
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LIMIT_SEC):
            await status_requested.wait()
        async with asyncio.timeout(ANSWER_SEC / 2):  # long before gpumanctl gives up on the status
            assert await process.stdout.readline() == f"{LEASE}\n".encode()
    finally:
        process.send_signal(signal.SIGINT)
        await finished(process)


async def test_verbose_acquire_prints_details_on_stderr(ctl: Ctl, manager: ScriptedManager) -> None:
    result = await ctl("-v", "acquire", "mvoice")
    assert result.out == f"{LEASE}\n"
    details = "mvoice on GPU 0: loaded, granted after 1.2 s; evicted comfyui; http://127.0.0.1:9200\n"
    assert result.err == details


async def test_release_and_renew(ctl: Ctl, manager: ScriptedManager) -> None:
    assert (await ctl("release", LEASE)).out == ""
    assert json.loads((await ctl("renew", LEASE, "--ttl", "2min", "--json")).out) == {
        "lease": LEASE,
        "expires_usec": samples.NOW,
    }
    assert (await ctl("renew", LEASE)).out == "ends now\n"
    assert manager.calls == [("Release", [LEASE]), ("Renew", [LEASE, 120_000_000]), ("Renew", [LEASE, 0])]


async def test_load_and_evict(ctl: Ctl, manager: ScriptedManager) -> None:
    assert (await ctl("load", "mvoice", "--device", "1")).out == "mvoice loaded on GPU 0 in 0.7 s; evicted comfyui\n"
    assert manager.options_of("Load") == {"timeout_usec": 20_000_000, "device": "1"}
    assert (await ctl("evict", "mvoice", "--force")).out == "mvoice evicted by http, 2.8 GiB freed in 0.7 s\n"
    assert manager.options_of("Evict") == {"timeout_usec": 20_000_000, "force": True}
    assert json.loads((await ctl("evict", "mvoice", "--json")).out) == outcome(method="http", freed_mib=2867)
    assert (await ctl("evict", "mvoice", "--quiet")).out == ""


async def test_a_lazy_consumer_is_not_reported_as_loaded(ctl: Ctl, manager: ScriptedManager) -> None:
    lazy = samples.consumer("mvoice", "resident", lazy=True, used_mib=0)
    manager.answers["GetStatus"] = dictionary(samples.status(queue=[], consumers=[lazy]))

    loaded = await ctl("load", "mvoice")
    granted = await ctl("-v", "acquire", "mvoice")

    assert loaded.out.startswith("VRAM is free for mvoice on GPU 0; its first request loads the model")
    assert "its first request loads the model" in granted.err


async def test_pin_and_unpin(ctl: Ctl, manager: ScriptedManager) -> None:
    assert (await ctl("pin", "mvoice")).out == ""
    assert json.loads((await ctl("unpin", "mvoice", "--json")).out) == {"consumer": "mvoice", "pinned": False}
    assert manager.calls == [("Pin", ["mvoice"]), ("Unpin", ["mvoice"])]


async def test_plan_gives_reasons(ctl: Ctl, manager: ScriptedManager) -> None:
    result = await ctl("plan", "llm", "--priority", "3")
    assert "llm: would be granted on GPU 0 after 1 eviction and a load" in result.out
    assert "used least recently: 3 min ago" in result.out
    assert manager.calls == [("Plan", ["llm", {"priority": 3}])]
    assert json.loads((await ctl("plan", "llm", "--json")).out) == samples.plan()


async def test_reload(ctl: Ctl, manager: ScriptedManager) -> None:
    assert (await ctl("reload")).out == ""
    assert json.loads((await ctl("reload", "--json")).out) == {"reloaded": True}


async def test_version_shows_both(ctl: Ctl, manager: ScriptedManager) -> None:
    assert (await ctl("version")).out == f"gpumanctl {VERSION}\ngpumand 9.9.9\n"
    assert json.loads((await ctl("version", "--json")).out) == {"gpumanctl": VERSION, "gpumand": "9.9.9"}


async def test_version_of_another_program_cannot_write_escape_sequences(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["Get"] = replying("v", Variant("s", "1\x1b[2J"))
    assert (await ctl("version")).out == f"gpumanctl {VERSION}\ngpumand 1\N{REPLACEMENT CHARACTER}[2J\n"


async def test_version_without_a_daemon_is_no_failure(ctl: Ctl) -> None:
    result = await ctl("version")
    assert (result.code, result.out) == (0, f"gpumanctl {VERSION}\ngpumand (not running)\n")


async def test_config_check_needs_no_daemon(tmp_path: Path) -> None:
    ctl = Ctl("unix:path=/nonexistent")
    good = tmp_path / "good.toml"
    good.write_text('[consumers.mvoice]\nunit = "mvoice.service"\nvram_resident_mib = 2867\n')
    assert (await ctl("config-check", str(good))).out == f"The configuration in {good} is valid: 1 consumer.\n"
    document = await ctl("config-check", str(good), "--json")
    assert json.loads(document.out) == {"path": str(good), "consumers": ["mvoice"]}


async def test_config_check_prints_one_line_per_problem(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("[scheduler]\ncushion_mb = 1\n[consumers.mvoice]\nvram_resident_mib = true\n")
    result = await Ctl("unix:path=/nonexistent")("config-check", str(bad), "--json")
    assert (result.code, result.out) == (1, "")
    lines = result.err.splitlines()
    assert len(lines) >= 2
    assert lines[0].startswith(f"{bad}:2: ")
    assert "cushion_mib" in lines[0]


async def completed(ctl: Ctl, *words: str) -> list[str]:
    """Completions of the last of these words."""
    line = " ".join(("gpumanctl", *words))
    variables = {"_GPUMANCTL_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    result = await ctl(**variables)
    assert result.err == ""
    return [line.removeprefix("plain,") for line in result.out.splitlines() if line]


async def test_shells_complete_commands_consumers_and_leases(ctl: Ctl, manager: ScriptedManager) -> None:
    assert await completed(ctl, "sta") == ["status"]
    assert await completed(ctl, "acquire", "mv") == ["mvoice"]
    assert await completed(ctl, "release", LEASE[:3]) == [LEASE]
    assert "--no-wait" in await completed(ctl, "acquire", "--no")
    assert await completed(ctl, "help", "ev") == ["evict"]
    for unknown in (("unload", "mv"), ("statsu", "mv"), ("preset", "statsu", "mv")):
        assert await completed(ctl, *unknown) == []


async def test_completion_without_a_daemon_prints_nothing(ctl: Ctl) -> None:
    assert await completed(ctl, "acquire", "mv") == []
