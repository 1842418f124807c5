"""The example with ComfyUI and ollama on a card for one of them, unchanged, with both servers as real units."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.host import VRAM_DIR, Host
from tests.e2e.installation import module_command

PAIR = Path(__file__).parents[2] / "examples" / "comfyui-and-ollama"
PORTS = {"ollama": 11434, "comfyui": 8188}
SIZES = {"ollama": 6144, "comfyui": 13312}
TOTAL_MIB = 16384


def test_the_example_takes_turns_although_ollama_holds_memory_first(host: Host) -> None:
    for name, port in PORTS.items():
        flags = f"{name} --mib {SIZES[name]} --device-total {TOTAL_MIB} --simulator-dir {VRAM_DIR} --port {port}"
        host.unit(name, f"{module_command('tests.integration.pair_servers')} {flags}")
    host.gpu('source = "simulated"', f"simulated_total_mib = [{TOTAL_MIB}]", f'simulated_dir = "{VRAM_DIR}"')
    host.configure((PAIR / "gpumand.toml").read_text())
    host.start()
    host.client.acquire("ollama")
    assert host.client.leases()
    for lease in list(host.client.leases()):
        host.machine.run(["gpumanctl", "release", lease])

    done = host.machine.run(["/usr/bin/python3", str(PAIR / "alternate.py"), "a lighthouse"], check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "a lighthouse: prompt: Describe a painting of a lighthouse in one line.",
        "a lighthouse: pair_job-1.png",
    ]
    lines = host.machine.run(["gpumanctl", "history", "--kind", "eviction", "--no-legend"]).stdout.splitlines()
    assert ["ollama" in line for line in lines] == [True]
    assert host.client.leases() == {}
    doctor = host.machine.run(["gpumanctl", "doctor"], check=False).stdout
    assert "vram_managed" not in doctor
