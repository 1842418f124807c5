"""Every command against a scripted manager: its calls, its output and its exit code."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Variant

from gpumand.bus.connection import IncomingCall, Reply
from gpumand.client.calls import ANSWER_SEC
from gpumand.domain.errors import (
    AccessDenied,
    Busy,
    GpumandError,
    InsufficientVram,
    InvalidArgs,
    NoSuchConsumer,
    NoSuchDevice,
    NoSuchLease,
    TimedOut,
)
from gpumand.testing.bus import PrivateBus
from gpumand.version import VERSION
from tests.integration.cli.ctl import LIMIT_SEC, Ctl, finished
from tests.integration.cli.manager import LEASE, Answer, ScriptedManager, dictionary, failing, grant, outcome, replying
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


class LeaseBook:
    """The leases of a scripted manager: Release and Renew accept only complete ids."""

    def __init__(self, manager: ScriptedManager, *leases: dict[str, Any]) -> None:
        self.manager = manager
        self.ids = [lease["id"] for lease in leases]
        manager.answers["GetStatus"] = dictionary(samples.status(queue=[], leases=list(leases)))
        manager.answers["Release"] = self._answer("")
        manager.answers["Renew"] = self._answer("t", samples.NOW)

    def _answer(self, signature: str, *body: Any) -> Answer:
        def answer(call: IncomingCall) -> Reply:
            if call.body[0] not in self.ids:
                raise NoSuchLease("no active lease has this id")
            return Reply(signature, body)

        return answer

    @property
    def ended(self) -> list[str]:
        """The leases that were released or renewed."""
        return [body[0] for _, body in self.manager.calls if body[0] in self.ids]


A, B, OTHER = "38a640ffce010203", "38a640aa00010203", "77bb00ffce010203"


@pytest.mark.parametrize("prefix", ["77bb", "77BB00", OTHER])
async def test_unique_prefix_of_a_lease_id_is_accepted(ctl: Ctl, manager: ScriptedManager, prefix: str) -> None:
    book = LeaseBook(manager, samples.lease(id=A), samples.lease(id=OTHER))
    released, renewed = await ctl("release", prefix, "--json"), await ctl("renew", prefix, "--ttl", "1min", "--json")
    assert (released.code, json.loads(released.out)) == (0, {"lease": OTHER})
    assert (renewed.code, json.loads(renewed.out)) == (0, {"lease": OTHER, "expires_usec": samples.NOW})
    assert book.ended == [OTHER, OTHER]
    assert manager.calls[-1] == ("Renew", [OTHER, 60_000_000])


async def test_ambiguous_prefix_lists_the_leases_that_it_matches(ctl: Ctl, manager: ScriptedManager) -> None:
    leases = [samples.lease(id=A, owner_uid=0), samples.lease(id=B, owner_uid=0), samples.lease(id=OTHER)]
    book = LeaseBook(manager, *leases)
    result = await ctl("renew", "38a6", "--ttl", "90s")
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines() == [
        "gpumanctl: '38a6' is the beginning of 2 lease ids. Choose one:",
        "  38a640f: user root, render.service, 'poster', ends now",
        "    gpumanctl renew 38a640f --ttl 90",
        "  38a640a: user root, render.service, 'poster', ends now",
        "    gpumanctl renew 38a640a --ttl 90",
    ]
    assert book.ended == []


async def test_release_of_a_consumer_offers_its_leases_and_releases_none(ctl: Ctl, manager: ScriptedManager) -> None:
    evil = samples.lease(id=B, owner_uid=4294967200, owner="", reason="\x1b[2J", lifetime="connection", expires_usec=0)
    leases = [samples.lease(id=A, owner_uid=0, lifetime="unit", expires_usec=0), evil]
    book = LeaseBook(manager, *leases, samples.lease(id=OTHER, consumer="llm"))
    result = await ctl("release", "comfyui", "--json")
    assert (result.code, result.out) == (4, "")
    assert result.err.splitlines() == [
        "gpumanctl: 'comfyui' is a consumer, not a lease. It has 2 active leases:",
        "  38a640f: user root, render.service, 'poster', ends with its unit",
        "    gpumanctl release 38a640f",
        "  38a640a: uid 4294967200, '\N{REPLACEMENT CHARACTER}[2J', ends with its owner",
        "    gpumanctl release 38a640a",
    ]
    one = await ctl("release", "llm")
    assert one.err.splitlines()[0].endswith("It has 1 active lease:")
    none = await ctl("release", "mvoice")
    assert (none.code, none.err) == (
        4,
        "gpumanctl: 'mvoice' is a consumer, not a lease, and it has no active lease\n",
    )
    assert book.ended == []


async def test_offered_command_names_the_bus_that_the_option_selects(bus: PrivateBus, manager: ScriptedManager) -> None:
    LeaseBook(manager, samples.lease(id=A))
    result = await Ctl("")("--bus-address", bus.address, "release", "comfyui")
    assert f"    gpumanctl --bus-address {bus.address} release 38a640" in result.err.splitlines()


@pytest.mark.parametrize(
    ("lease", "text"),
    [
        ("38a", "'38a' is too short for a lease id: give at least 4 characters of it; list the active leases with"),
        ("99999", "no active lease has this id; list the active leases with: gpumanctl status"),
        ("xyz", "no active lease has this id; list the active leases with: gpumanctl status"),
    ],
)
async def test_unknown_lease_is_one_line(ctl: Ctl, manager: ScriptedManager, lease: str, text: str) -> None:
    LeaseBook(manager, samples.lease(id=A))
    code, line = await failure(ctl, "release", lease)
    assert code == 4
    assert text in line


async def test_messages_name_the_options_of_the_command_line(ctl: Ctl, manager: ScriptedManager) -> None:
    manager.answers["Evict"] = failing(Busy("mvoice is leased. Use the option 'force' to revoke its leases."))
    manager.answers["Acquire"] = failing(
        InvalidArgs("option 'ttl_usec' must be greater than 0 and at most 86400000000")
    )
    assert (await failure(ctl, "evict", "mvoice"))[1].endswith("mvoice is leased. Use --force to revoke its leases.")
    assert (await failure(ctl, "acquire", "mvoice"))[1].endswith("--ttl must be greater than 0 and at most 1 d")


async def test_refusal_of_the_daemon_is_shown_without_a_second_advice(ctl: Ctl, manager: ScriptedManager) -> None:
    message = "Permission denied: user alice may not evict mvoice. Use sudo: sudo gpumanctl evict mvoice"
    manager.answers["Evict"] = failing(AccessDenied(message))
    assert await failure(ctl, "evict", "mvoice") == (1, f"gpumanctl: {message}")


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


async def failure(ctl: Ctl, *args: str) -> tuple[int, str]:
    """Exit code and error line of a command that fails, which has no other output, with or without --json."""
    plain, document = await ctl(*args), await ctl(*args, "--json")
    assert plain.out == document.out == ""
    assert plain.err == document.err
    assert plain.code == document.code
    (line,) = plain.err.splitlines()
    assert line.startswith("gpumanctl: ")
    return plain.code, line


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
