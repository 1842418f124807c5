"""``gpumanctl init`` on a booted systemd: running services become a configuration that the daemon accepts."""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.host import CONFIG, VRAM_DIR, Host, process
from tests.shim import build_shim, have_compiler
from tests.shim.shimfile import Shim, ShimDevice

DRIVER = "/run/e2e-driver"
PORT = 9188


@pytest.fixture
def driver(host: Host) -> Iterator[dict[str, str]]:
    """A fake NVML library that reports the memory that processes announce; the environment variables that select it."""
    if not have_compiler():
        pytest.skip("e2e: gcc is not installed, so the fake NVML cannot be built")
    host.machine.run(["mkdir", "--parents", DRIVER])
    host.machine.run(["mkdir", "--parents", "--mode=1777", VRAM_DIR])
    inside = Path(f"/proc/{host.machine.container.leader}/root{DRIVER}")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(build_shim(Path(folder)), inside)
    Shim(devices=[ShimDevice("GPU-shim", processes_in=Path(VRAM_DIR))]).write(inside / "answers")
    yield {"LD_LIBRARY_PATH": DRIVER, "GPUMAND_NVML_SHIM": f"{DRIVER}/answers"}
    host.machine.remove(DRIVER)


def init(host: Host, environment: dict[str, str], *arguments: str) -> str:
    """Run gpumanctl init as root and return its output."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    return host.machine.run(["env", *variables, "gpumanctl", "init", *arguments]).stdout


def test_a_running_service_becomes_a_consumer(host: Host, driver: dict[str, str]) -> None:
    host.unit("pictures", f"{process('ComfyUI', 6000)} --port={PORT} --loaded-at-start --anonymous")
    host.machine.systemctl("start", "pictures")
    host.machine.wait_until(lambda: "6000" in init(host, driver), "it holds its memory")

    text = init(host, driver)
    made = tomllib.loads(text)

    assert made["consumers"] == {
        "comfyui": {
            "preset": "comfyui",
            "unit": "pictures.service",
            "url": f"http://127.0.0.1:{PORT}",
            "vram_resident_mib": 6000,
        }
    }
    assert "# pictures.service was recognised as ComfyUI by its command line." in text
    assert "run gpumanctl init as root" not in text


def test_the_daemon_accepts_the_generated_configuration(host: Host, driver: dict[str, str]) -> None:
    host.unit("pictures", f"{process('ComfyUI', 6000)} --port={PORT} --loaded-at-start --anonymous")
    host.machine.systemctl("start", "pictures")
    host.machine.wait_until(lambda: "6000" in init(host, driver), "it holds its memory")
    host.machine.run(["mkdir", "-p", "/etc/gpumand"])

    init(host, driver, "--output", CONFIG, "--force")

    assert "1 consumer" in host.machine.run(["gpumanctl", "config-check"]).stdout
    refused = host.machine.run(["gpumanctl", "init", "--output", CONFIG], check=False)
    assert (refused.returncode, "Overwrite it with --force" in refused.stderr) == (1, True)
    host.machine.systemctl("start", "gpumand.service")
    assert host.client.consumer("comfyui")["unit"] == "pictures.service"


def test_a_user_gets_the_advice_to_run_it_as_root(host: Host) -> None:
    host.unit("pictures", f"{process('ComfyUI', 6000)} --port={PORT}")
    host.machine.systemctl("start", "pictures")

    def seen() -> str:
        return host.machine.run(["gpumanctl", "init", "--source=none"], user="nobody").stdout

    host.machine.wait_until(
        lambda: "run gpumanctl init as root" in seen(), "it listens at a port of an unknown process"
    )
    assert tomllib.loads(seen())["consumers"]["comfyui"]["unit"] == "pictures.service"
