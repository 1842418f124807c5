"""Servers that were started by hand, by cron, by PM2 or in a terminal: they are not the unit that they run in."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from gpumand.config.presets import preset, preset_names
from gpumand.discovery.found_place import short_place
from gpumand.discovery.host import Host, Listener, Process
from gpumand.discovery.launcher_units import starts_other_programs
from gpumand.discovery.matching import find_candidates
from gpumand.discovery.processes import ancestors, command_line
from gpumand.discovery.starter_config import starting_configuration

PRESETS = [preset(name) for name in preset_names()]
LLAMA = "/usr/bin/llama-server -m /srv/gemma.gguf --port 8080"


def generated(*processes: Process, ports: tuple[Listener, ...] = ()) -> str:
    units = {one.unit: "" for one in processes if one.unit.endswith(".service")}
    host = Host(units, {one.pid: one for one in processes}, ports)
    return starting_configuration(host, find_candidates(host, PRESETS), [], (), {})


def consumers(text: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(text).get("consumers", {})
    return found


@pytest.mark.parametrize(
    "unit",
    [
        "cron.service",
        "ssh.service",
        "sshd@3-[::1]:22.service",
        "pm2-root.service",
        "jupyterhub.service",
    ],
)
def test_stopping_the_unit_of_many_programs_is_never_proposed(unit: str) -> None:
    comfyui = Process(8, "python3", "python3 ComfyUI/main.py", unit, used_mib={0: 7000}, ancestors=(5,))
    text = generated(Process(7, "llama-server", LLAMA, unit, used_mib={0: 8000}, ancestors=(5,)), comfyui)

    assert consumers(text) == {"comfyui": {"preset": "comfyui", "vram_resident_mib": 7000}}
    assert f"a process that {unit} has started was recognised as ComfyUI" in text
    assert (
        f"# {unit} starts other programs too, so that it is never stopped. Give the server a unit of its own." in text
    )
    assert "# [consumers.llama-server]" in text, "only a stop could evict it"
    assert f'unit = "{unit}"' not in text


@pytest.mark.parametrize("unit", ["cron-ollama.service", "tmux-sd.service", "sshfs.service", "session-7.scope", ""])
def test_other_units_are_the_services_themselves(unit: str) -> None:
    assert not starts_other_programs(unit)


@pytest.mark.parametrize("unit", ["", "session-7.scope", "user@1000.service", "atd.service"])
def test_a_server_without_a_service_is_one_consumer_with_its_child_processes(unit: str) -> None:
    text = generated(
        Process(30, "llama-server", f"{LLAMA} --host 127.0.0.1", unit, used_mib={0: 3000}, ancestors=(40, 20)),
        Process(40, "ollama", "ollama serve", unit, used_mib={0: 500}, ancestors=(20,)),
        ports=(Listener("127.0.0.1", 39999, 30), Listener("127.0.0.1", 11434, 40)),
    )

    assert list(consumers(text)) == ["ollama"]
    assert "#   pid 40: ollama serve" in text
    assert "it also listens at" not in text or "11434" not in text


def test_child_processes_whose_name_is_unknown_count_for_the_program_that_started_them() -> None:
    text = generated(
        Process(40, "python", "python3 ComfyUI/main.py", "session-7.scope", ancestors=(20,)),
        Process(41, "worker", "VRAM-worker", "session-7.scope", used_mib={0: 9000}, ancestors=(40, 20)),
    )

    assert consumers(text) == {"comfyui": {"preset": "comfyui", "vram_resident_mib": 9000}}
    assert "Other processes that hold VRAM" not in text


def test_ancestors_are_read_from_proc_as_far_as_possible(tmp_path: Path) -> None:
    for pid, name, parent in ((9, "a) S 1 (b", 8), (8, "sh", 7), (7, "init", 1)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} ({name}) S {parent} 1 1 0")

    assert ancestors(9, tmp_path) == (8, 7)
    assert ancestors(5, tmp_path) == ()


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("ollama.service", "in ollama.service"),
        ("cron.service", "started by cron.service"),
        ("user@1000.service", "in a user's services"),
        ("session-7.scope", "outside any service"),
    ],
)
def test_setup_says_where_a_service_runs(unit: str, expected: str) -> None:
    host = Host({unit: ""}, {7: Process(7, "python3", "python3 ComfyUI/main.py", unit)})
    (found,) = find_candidates(host, PRESETS)
    assert short_place(found) == expected


@pytest.mark.parametrize(
    ("command", "folder", "expected"),
    [
        ("python3 main.py --listen", "/home/alice/ComfyUI", "python3 ComfyUI/main.py --listen"),
        ("venv/bin/python -s ./launch.py", "/opt/webui", "venv/bin/python -s webui/launch.py"),
        ("python3 /srv/x/main.py other.py", "/home/alice/ComfyUI", "python3 /srv/x/main.py other.py"),
        ("ollama serve", "/home/alice/ComfyUI", "ollama serve"),
        ("python3 main.py", "", "python3 main.py"),
        ("", "/opt", ""),
    ],
)
def test_a_script_is_named_with_its_folder(command: str, folder: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_text("".join(f"{word}\0" for word in command.split()))
    if folder:
        (tmp_path / "7/cwd").symlink_to(folder)
    assert command_line(7, tmp_path) == expected


def test_a_server_that_was_started_in_its_folder_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_text("python\0main.py\0")
    (tmp_path / "7/cwd").symlink_to("/home/alice/ComfyUI")
    text = generated(Process(7, "python", command_line(7, tmp_path), "art.service", is_main=True, used_mib={0: 7000}))
    assert consumers(text) == {"comfyui": {"preset": "comfyui", "unit": "art.service", "vram_resident_mib": 7000}}


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        ("python3 train.py", "/home/alice/ComfyUI"),
        ("python3 main.py", "/home/comfyui/exporter"),
        ("python3 main.py", "/srv/ComfyUI/custom_nodes/watcher"),
        ("python3 -m http_proxy --target main.py", "/home/alice/ComfyUI"),
        ("python3 proxy.py --for main.py", "/home/alice/ComfyUI"),
        ("streamlit run main.py", "/home/alice/ComfyUI"),
    ],
)
def test_other_programs_in_the_folder_of_a_server_are_not_taken_for_it(
    command: str, folder: str, tmp_path: Path
) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_text("".join(f"{word}\0" for word in command.split()))
    (tmp_path / "7/cwd").symlink_to(folder)
    text = generated(Process(7, "python", command_line(7, tmp_path), "job.service", is_main=True, used_mib={0: 7000}))
    assert consumers(text) == {}


@pytest.mark.parametrize("unit", ["pm2-comfyui.service", "forgejo.service", "minecraft-forge.service"])
def test_units_whose_names_only_resemble_a_server_are_not_proposed(unit: str) -> None:
    host = Host({unit: ""}, {7: Process(7, "node", "/usr/bin/node x", unit, is_main=True)})
    assert find_candidates(host, PRESETS) == []


@pytest.mark.parametrize("unit", ["forge.service", "forge@1.service", "sd-forge.service", "webui-forge.service"])
def test_units_of_forge_are_recognised_by_their_name(unit: str) -> None:
    (found,) = find_candidates(Host({unit: ""}, {}), PRESETS)
    assert found.preset is not None
    assert found.preset.name == "forge"
