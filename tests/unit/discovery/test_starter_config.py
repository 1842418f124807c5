"""From a host scan to a starter configuration: recognised services, and no guessed values."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from gpumand.config import ConfigProblems, load
from gpumand.config.presets import preset, preset_names
from gpumand.discovery.host import Device, Host, Listener, Process
from gpumand.discovery.matching import find_candidates, likely_ports
from gpumand.discovery.starter_config import consumer_urls, starting_configuration
from gpumand.domain.consumer import UNKNOWN_MIB

PRESETS = [preset(name) for name in preset_names()]


def configuration_of(host: Host, probed: dict[str, str] | None = None) -> str:
    found = find_candidates(host, PRESETS)
    return starting_configuration(host, found, likely_ports(host, PRESETS, found), (), probed or {})


def host_with(*processes: Process, units: tuple[str, ...] = (), ports: tuple[Listener, ...] = ()) -> Host:
    names = {one.unit for one in processes if one.unit.endswith(".service")} | set(units)
    described = dict.fromkeys(sorted(names), "a description")
    return Host(described, {one.pid: one for one in processes}, ports, (Device(0, "RTX 4090", 24564),))


def comfyui(pid: int = 7, unit: str = "comfyui.service", mib: int | None = 13312) -> Process:
    return Process(pid, "python3", "python3 /opt/ComfyUI/main.py --listen", unit, is_main=True, used_mib={0: mib})


def problems(text: str, tmp_path: Path) -> list[str]:
    file = tmp_path / "made.toml"
    file.write_text(text, encoding="utf-8")
    try:
        load(file)
    except ConfigProblems as error:
        return [f"{one.key}: {one.message}" for one in error.problems]
    return []


def test_a_recognised_service_that_holds_its_model_gives_a_valid_configuration(tmp_path: Path) -> None:
    text = configuration_of(host_with(comfyui(), ports=(Listener("0.0.0.0", 8188, 7),)))

    assert problems(text, tmp_path) == []
    assert tomllib.loads(text)["consumers"] == {
        "comfyui": {"preset": "comfyui", "unit": "comfyui.service", "vram_resident_mib": 13312}
    }
    assert "recognised as ComfyUI by its command line" in text
    assert "device 0: RTX 4090, 24.0 GiB" in text


@pytest.mark.parametrize("used", [{}, {0: None}])
def test_an_unknown_footprint_is_left_to_fill_in(used: dict[int, int | None], tmp_path: Path) -> None:
    add_process = Process(7, "python3", "python3 ComfyUI/main.py", "comfyui.service", used_mib=used)

    text = configuration_of(host_with(add_process))

    assert "# vram_resident_mib = MIB  # peak VRAM use while loaded" in text
    assert problems(text, tmp_path) == []
    assert (
        load(tmp_path / "made.toml").consumers["comfyui"].vram_resident_mib == UNKNOWN_MIB
    )  # config-check reports that


def test_an_unknown_model_and_url_are_left_to_fill_in(tmp_path: Path) -> None:
    add_process = Process(7, "llama-server", "llama-server --models-dir /m", "llama.service", used_mib={0: 900})

    assert [
        one.partition(": is missing")[0] for one in problems(configuration_of(host_with(add_process)), tmp_path)
    ] == [
        "consumers.llama-cpp-router.model",
        "consumers.llama-cpp-router.url",
    ]


def test_a_port_that_differs_from_the_preset_is_written_as_url() -> None:
    ports = (Listener("127.0.0.1", 9000, 7), Listener("127.0.0.1", 8000, 7), Listener("192.0.2.1", 8000, 7))
    keys = tomllib.loads(configuration_of(host_with(comfyui(), ports=ports)))["consumers"]["comfyui"]

    assert keys["url"] == "http://127.0.0.1:8000"


def test_an_ipv6_listener_gives_a_url_with_brackets() -> None:
    text = configuration_of(host_with(comfyui(), ports=(Listener("::1", 8000, 7),)))

    assert tomllib.loads(text)["consumers"]["comfyui"]["url"] == "http://[::1]:8000"


@pytest.mark.parametrize(("address", "advice"), [("192.168.1.5", ["192.168.1.5"]), ("0.0.0.0", []), ("127.0.0.2", [])])
def test_a_service_at_an_address_of_a_network_comes_with_what_lets_gpumand_connect(
    address: str, advice: list[str]
) -> None:
    text = configuration_of(host_with(comfyui(), ports=(Listener(address, 8000, 7),)))

    assert [line.partition("[Service] IPAddressAllow=")[2] for line in text.splitlines() if "AddressAllow" in line] == (
        advice
    )


def test_the_main_process_decides_the_preset() -> None:
    swap = Process(7, "llama-swap", "/usr/bin/llama-swap -config c.yaml", "swap.service", is_main=True)
    child = Process(8, "llama-server", "llama-server --models-dir /m --port 5800", "swap.service", used_mib={0: 9000})
    ports = (Listener("127.0.0.1", 5800, 8), Listener("127.0.0.1", 9292, 7))

    (found,) = find_candidates(host_with(swap, child, ports=ports), PRESETS)

    assert found.preset is not None
    assert (found.preset.name, found.used_mib) == ("llama-swap", 9000)
    assert consumer_urls([found]) == {"llama-swap": (found.preset, "http://127.0.0.1:9292")}


def test_a_unit_is_recognised_by_its_name_alone() -> None:
    (found,) = find_candidates(Host(units={"ollama.service": "", "ssh.service": ""}), PRESETS)

    assert found.preset is not None
    assert (found.preset.name, found.why) == ("ollama", "the name of its unit")


def test_consumers_with_the_same_preset_are_named_after_their_units(tmp_path: Path) -> None:
    text = configuration_of(
        host_with(comfyui(), comfyui(8, "comfyui@b.service", 100), comfyui(9, "", 50), comfyui(10, "", 51))
    )

    assert problems(text, tmp_path) == []
    assert list(tomllib.loads(text)["consumers"]) == ["comfyui", "comfyui-2", "comfyui-3", "comfyui-b"]


def test_a_unit_only_preset_without_a_unit_is_commented_out(tmp_path: Path) -> None:
    text = configuration_of(host_with(Process(7, "x", "text-embeddings-router", "docker-1.scope", used_mib={0: 2000})))

    assert problems(text, tmp_path) == []
    assert "consumers" not in tomllib.loads(text)
    assert "# [consumers.tei]" in text
    assert "set unit to the unit that starts it" in text


def test_unrecognised_services_become_commented_consumers_and_other_processes_comments() -> None:
    text = configuration_of(
        host_with(
            Process(7, "python", "python train.py", "training.service", used_mib={0: 4000}),
            Process(8, "firefox", "firefox", "session-2.scope", used_mib={0: 900}),
            Process(9, "gpumand", "gpumand", "gpumand.service", used_mib={0: 10}),
        )
    )

    assert "consumers" not in tomllib.loads(text)
    assert '# unit = "training.service"\n# vram_resident_mib = 4000\n' in text
    assert "900 MiB in no service: pid 8, firefox" in text
    assert "gpumand.service" not in text


def test_a_default_port_alone_gives_a_hint_but_no_consumer() -> None:
    text = configuration_of(Host(listeners=(Listener("0.0.0.0", 5000), Listener("0.0.0.0", 22)), has_hidden_ports=True))

    assert "#   5000: tabbyapi" in text
    assert "consumers" not in tomllib.loads(text)
    assert "could not be identified: run gpumanctl init as root" in text
    assert "could not be identified: not even as root" in configuration_of(Host(has_hidden_ports=True, is_root=True))


def test_an_empty_scan_gives_an_example_consumer(tmp_path: Path) -> None:
    text = configuration_of(Host(driver_error="nvml-library-missing: none", units_error="there is no bus"))

    assert problems(text, tmp_path) == []
    assert "No running service was recognised" in text
    assert "The GPUs could not be read: nvml-library-missing" in text
    assert "# total_mib = MIB  # size of your GPU" in text
    assert "The units could not be scanned: there is no bus" in text


def test_names_and_command_lines_cannot_escape_their_comment(tmp_path: Path) -> None:
    evil = 'ComfyUI\n[gpu]\nsource = "none" \x1b[31m \u2028 "'
    add_process = Process(7, 'a"\n', evil, "comfyui.service", used_mib={0: 100})
    host = Host({"comfyui.service": 'd\n[x]\n"'}, {7: add_process}, (), (Device(0, "G\n[y]\n", None),), "e\n[z]")

    text = configuration_of(host, {"comfyui": "answered\n[w]"})

    assert problems(text, tmp_path) == []
    assert set(tomllib.loads(text)) == {"consumers"}
    assert '\n# source = "auto"\n' in text


@pytest.mark.parametrize("sources", [("nvml",), ("amdgpu",), ("nvml", "amdgpu")])
def test_the_sources_of_the_host_are_written(tmp_path: Path, sources: tuple[str, ...]) -> None:
    devices = (Device(0, "RTX 4090", 24564), Device(10000, "AMD GPU 164e", 32025, integrated=True))
    text = starting_configuration(Host(devices=devices), [], [], sources, {})

    assert problems(text, tmp_path) == []
    assert tomllib.loads(text)["gpu"]["source"] == (sources[0] if len(sources) == 1 else list(sources))
    assert "# device 10000: AMD GPU 164e, 31.3 GiB, integrated: only for consumers with this device\n" in text


def test_the_answer_of_the_health_route_is_a_comment() -> None:
    assert "Health check: ok." in configuration_of(host_with(comfyui()), {"comfyui": "ok"})


def test_a_user_service_is_left_to_the_users_gpumand() -> None:
    text = configuration_of(
        host_with(Process(7, "python3", "python3 ComfyUI/main.py", "user@1000.service", used_mib={0: 9}))
    )

    assert "unit" not in tomllib.loads(text)["consumers"]["comfyui"]
    assert "gpumanctl init --user" in text
