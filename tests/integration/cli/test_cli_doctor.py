"""``gpumanctl doctor`` on a healthy host, on faulty hosts, and without a daemon or a bus."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gpumand.bus.names import BUS_NAME
from gpumand.cli.doctor import host as doctors_host
from gpumand.testing.bus import ALLOW_EVERYTHING, PrivateBus
from tests.integration.cli.ctl import Ctl
from tests.integration.cli.world import world
from tests.integration.live import LiveHost, bare_host, table
from tests.integration.service_manager.host import FakeHost
from tests.shim import build_shim, have_compiler, shim_environment
from tests.shim.shimfile import Shim, ShimDevice


async def report(ctl: Ctl, *args: str, code: int) -> dict[str, Any]:
    """The report as JSON."""
    result = await ctl("doctor", "--json", *args)
    assert (result.code, result.err) == (code, ""), result
    document: dict[str, Any] = json.loads(result.out)
    return document


def found(document: dict[str, Any], check: str) -> list[dict[str, str]]:
    return [one for one in document["findings"] if one["check"] == check]


async def test_a_healthy_host_exits_0(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, ctl):
        document = await report(ctl, code=0)
        text = await ctl("doctor")
    assert (document["well"], document["findings"]) == (True, [])
    checked = {"bus", "daemon", "version", "readings", "configuration", "reload", "footprints", "room", "coexistence"}
    assert checked <= set(document["good"])
    assert {"units", "polkit", "driver"} <= set(document["skipped"])
    assert (text.code, text.out.splitlines()[0]) == (0, "● no problems found")


async def test_the_configuration_of_the_running_daemon_is_checked(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        await host.end()
        voice, images = host.consumers["mvoice"], host.consumers["comfyui"]
        kind = table(voice, 2867, can_coexist_with='["comfyui"]')
        pinned = [table(images, 13312, pinned="true"), table(host.consumers["llm"], 14336, pinned="true")]
        host.configure(kind + "".join(pinned))
        await host.start()
        document = await report(ctl, code=1)
        text = await ctl("doctor")
    (one_sided,), (too_large,) = found(document, "coexistence"), found(document, "room")
    assert one_sided["mend"] == '[consumers.comfyui] can_coexist_with = ["mvoice"]'
    assert (
        too_large["what"] == "comfyui and llm are never evicted and need 27.0 GiB together, but the device has 24.0 GiB"
    )
    assert too_large["mend"] == "gpumanctl unpin llm"
    assert "● found: 1 problem, 1 warning" in text.out
    assert "  → [consumers.comfyui] can_coexist_with" in text.out


async def test_a_changed_file_is_a_warning_until_the_reload(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        later = host.folder / "gpumand.toml"
        status = json.loads((await ctl("--json")).out)
        later_sec = status["configured_usec"] / 1e6 + 5
        os.utime(later, (later_sec, later_sec))
        (stale,) = found(await report(ctl, code=1), "reload")
        os.utime(later)
        assert (await ctl("reload")).code == 0
        assert found(await report(ctl, code=0), "reload") == []
    assert stale["mend"].endswith("gpumanctl reload")
    assert str(later) in stale["what"]


async def test_configuration_errors_and_failing_health_routes_are_found(tmp_path: Path) -> None:
    async with world(tmp_path) as (host, ctl):
        await host.consumers["mvoice"].fault("error-500")
        await host.consumers["llm"].kill()
        document = await report(ctl, code=1)
        (host.folder / "gpumand.toml").write_text("[consumers.x]\nunti = 'x.service'\n")
        broken = await report(ctl, code=1)
    silent = {one["what"].partition(":")[0]: one["severity"] for one in found(document, "routes")}
    assert silent == {"mvoice": "problem", "llm": "note"}
    assert any("did you mean unit?" in one["what"] for one in found(broken, "configuration"))


async def test_a_stopped_daemon_is_reported_with_the_start_command(ctl: Ctl, bus: PrivateBus, tmp_path: Path) -> None:
    file = tmp_path / "gpumand.toml"
    file.write_text("[gpu]\nsource = 'none'\n[consumers.a]\nvram_resident_mib = 100\nurl = 'http://127.0.0.1:9'\n")
    document = await report(ctl, "--config", str(file), code=1)
    (down,) = found(document, "daemon")
    assert down["mend"] == f"gpumand --bus-address '{bus.address}'"
    assert {"version", "reload", "consumers"} <= set(document["skipped"])


async def test_doctor_and_completion_never_activate_the_daemon(tmp_path: Path) -> None:
    """The bus starts the service at the first call to its name, unless the caller asks for the owner first."""
    started = tmp_path / "started"
    services = tmp_path / "services"
    services.mkdir()
    service = f"[D-BUS Service]\nName={BUS_NAME}\nExec=/bin/sh -c 'touch {started}; exit 1'\n"
    (services / f"{BUS_NAME}.service").write_text(service)
    with activating_bus(tmp_path, services) as bus:
        ctl = Ctl(bus.address)
        document = await report(ctl, "--config", str(tmp_path / "none.toml"), code=1)
        words = {"COMP_WORDS": "gpumanctl show ", "COMP_CWORD": "2", "_GPUMANCTL_COMPLETE": "bash_complete"}
        await ctl(**words)
        assert not started.exists()
        assert (await ctl("status")).code == 3
        assert started.exists(), "this bus would not have started anything"
    assert found(document, "daemon")[0]["what"] == "gpumand is not running on this bus"


async def test_a_missing_bus_is_a_problem_without_a_traceback(tmp_path: Path) -> None:
    result = await Ctl(f"unix:path={tmp_path}/none")("doctor", "--config", str(tmp_path))
    assert result.code == 1
    assert (
        f"problem: the bus at the given address is not available: cannot connect to the bus at unix:path={tmp_path}"
        in result.out
    )
    assert "Traceback" not in result.out + result.err


@pytest.fixture
async def host(tmp_path: Path) -> Any:
    async with bare_host(tmp_path) as made:
        yield made


async def test_masked_and_missing_units_are_found_in_systemd(host: LiveHost, tmp_path: Path) -> None:
    control = await host.client()
    systemd = FakeHost(host.bus, control.bus, tmp_path)
    await systemd.boot({"masked.service": {"load_state": "masked"}, "good.service": {"argv": ["sleep", "1000"]}})
    tables = [
        f"[consumers.{name}]\nunit = '{name}.service'\nvram_resident_mib = 9\n" for name in ("masked", "good", "gone")
    ]
    host.configure("".join(tables))
    await host.start()
    try:
        document = await report(Ctl(host.bus.address), code=1)
    finally:
        await host.end()
        await systemd.halt()
        await control.close()
    fixes = {one["what"]: one["mend"] for one in found(document, "units")}
    assert fixes["masked: masked.service is masked"].endswith("systemctl unmask masked.service")
    assert fixes["gone: systemd has no unit gone.service"] == "systemctl list-unit-files '*.service'"
    assert not any(what.startswith("good") for what in fixes)


async def test_config_check_asks_systemd_and_the_daemon_and_starts_neither(host: LiveHost, tmp_path: Path) -> None:
    control = await host.client()
    systemd = FakeHost(host.bus, control.bus, tmp_path)
    ctl, file = Ctl(host.bus.address), tmp_path / "checked.toml"
    lines = [f"[consumers.{name}]\nunit = '{name}.service'\nvram_resident_mib = 99\n" for name in ("good", "gone")]
    lines += ["[consumers.large]\nurl = 'http://h:1'\nvram_resident_mib = 99999\n"]
    lines += [f"[consumers.{name}]\nurl = 'http://h:2'\nvram_resident_mib = 99\n" for name in ("a", "b")]
    file.write_text("".join(lines))
    await systemd.boot({"good.service": {"argv": ["sleep", "1000"]}})
    try:
        without_daemon = await ctl("config-check", str(file))
        host.configure("")
        await host.start()
        with_daemon = await ctl("config-check", str(file))
        document = json.loads((await ctl("config-check", str(file), "--json")).out)
    finally:
        await host.end()
        await systemd.halt()
        await control.close()
    assert (without_daemon.code, with_daemon.code) == (0, 0)
    shared, gone = (
        "a and b share the server http://h:2",
        "gone: systemd has no unit gone.service, so gpumand cannot start or stop it. Check the name",
    )
    assert [gone in line or shared in line for line in without_daemon.err.splitlines()] == [True, True]
    assert [line.split(":")[0] for line in with_daemon.err.splitlines()] == ["warning"] * 3
    assert "large: vram_resident_mib is 99999" in with_daemon.err
    assert gone in document["warnings"]
    assert with_daemon.out == f"The configuration in {file} is valid: 5 consumers.\n"


async def test_the_configuration_path_is_read_from_the_daemons_command_line(tmp_path: Path) -> None:
    for words, expected in (
        (["gpumand", "--config", "/a/b.toml", "--user"], Path("/a/b.toml")),
        (["gpumand", "--config=/a/b.toml"], Path("/a/b.toml")),
        (["gpumand", "--config", "b.toml"], tmp_path / "b.toml"),
        (["gpumand"], None),
    ):
        folder = tmp_path / "77"
        folder.mkdir(exist_ok=True)
        (folder / "cmdline").write_bytes("\0".join([*words, ""]).encode())
        if not (folder / "cwd").exists():
            (folder / "cwd").symlink_to(tmp_path)
        assert doctors_host.daemon_config_path(77, tmp_path) == expected


async def test_driver_versions_are_read_from_proc_and_the_library_name(tmp_path: Path) -> None:
    version = tmp_path / "version"
    version.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 2024\nGCC version: 12.2.0\n"
    )
    (tmp_path / "libnvidia-ml.so.570.133.07").write_text("")
    (tmp_path / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.570.133.07")
    assert doctors_host.kernel_version(version) == "550.54.14"
    assert doctors_host.kernel_version(tmp_path / "none") == ""
    assert doctors_host.library_version([str(tmp_path / "none"), str(tmp_path)]) == "570.133.07"


@pytest.mark.skipif(not have_compiler(), reason="gcc is not installed, so the fake NVML cannot be built")
async def test_driver_faults_are_read_through_nvml(ctl: Ctl, tmp_path: Path) -> None:
    file, answers = tmp_path / "gpumand.toml", tmp_path / "answers"
    # The source is named, since this host has no card.
    file.write_text("[gpu]\nsource = 'nvml'\n[consumers.a]\nvram_resident_mib = 100\nurl = 'http://127.0.0.1:9'\n")
    shim = Shim(devices=[ShimDevice("GPU-a", total_mib=24576)])
    shim.write(answers)
    ctl.environment.update(shim_environment(build_shim(tmp_path / "lib"), answers))
    assert "driver" in (await report(ctl, "--config", str(file), code=1))["good"]
    shim.kernel = 2
    shim.write(answers)
    (mismatch,) = found(await report(ctl, "--config", str(file), code=1), "driver")
    assert mismatch["what"].startswith("driver-mismatch: ")
    assert mismatch["mend"].endswith("reboot")


def activating_bus(folder: Path, services: Path) -> PrivateBus:
    """A bus that starts services from this folder."""
    config = folder / "bus.conf"
    text = ALLOW_EVERYTHING.format(kind="session", folder=folder, limits="")
    config.write_text(text.replace("</busconfig>", f"<servicedir>{services}</servicedir></busconfig>"))
    return PrivateBus(config)
