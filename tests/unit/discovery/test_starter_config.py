"""From what was found to a file: what is recognised, and that nothing is made up."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from gpumand.config import ConfigProblems, load
from gpumand.config.presets import preset, preset_names
from gpumand.discovery.host import Device, Host, Listener, Process
from gpumand.discovery.matching import findings, likely_ports
from gpumand.discovery.starter_config import consumer_urls, starting_configuration
from gpumand.domain.consumer import UNKNOWN_MIB

PRESETS = [preset(name) for name in preset_names()]


def text_of(host: Host, probed: dict[str, str] | None = None) -> str:
    found = findings(host, PRESETS)
    return starting_configuration(host, found, likely_ports(host, PRESETS, found), "nvml", probed or {})


def host_of(*processes: Process, units: tuple[str, ...] = (), ports: tuple[Listener, ...] = ()) -> Host:
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


def test_a_known_service_that_holds_its_model_needs_nothing_more(tmp_path: Path) -> None:
    text = text_of(host_of(comfyui(), ports=(Listener("0.0.0.0", 8188, 7),)))

    assert problems(text, tmp_path) == []
    assert tomllib.loads(text)["consumers"] == {
        "comfyui": {"preset": "comfyui", "unit": "comfyui.service", "vram_resident_mib": 13312}
    }
    assert "recognised as ComfyUI by its command line" in text
    assert "device 0: RTX 4090, 24.0 GiB" in text


@pytest.mark.parametrize("used", [{}, {0: None}])
def test_a_footprint_that_was_not_seen_is_asked_for(used: dict[int, int | None], tmp_path: Path) -> None:
    process = Process(7, "python3", "python3 ComfyUI/main.py", "comfyui.service", used_mib=used)

    text = text_of(host_of(process))

    assert "# vram_resident_mib = MIB  # to be filled in" in text
    assert problems(text, tmp_path) == []
    assert load(tmp_path / "made.toml").consumers["comfyui"].vram_resident_mib == UNKNOWN_MIB  # config-check says so


def test_a_model_and_a_url_that_were_not_seen_are_asked_for(tmp_path: Path) -> None:
    process = Process(7, "llama-server", "llama-server --models-dir /m", "llama.service", used_mib={0: 900})

    assert [one.partition(": is missing")[0] for one in problems(text_of(host_of(process)), tmp_path)] == [
        "consumers.llama-cpp-router.model",
        "consumers.llama-cpp-router.url",
    ]


def test_where_it_listens_is_written_where_the_preset_has_it_otherwise() -> None:
    ports = (Listener("127.0.0.1", 9000, 7), Listener("127.0.0.1", 8000, 7), Listener("192.0.2.1", 8000, 7))
    keys = tomllib.loads(text_of(host_of(comfyui(), ports=ports)))["consumers"]["comfyui"]

    assert keys["url"] == "http://127.0.0.1:8000"


def test_ipv6_only() -> None:
    text = text_of(host_of(comfyui(), ports=(Listener("::1", 8000, 7),)))

    assert tomllib.loads(text)["consumers"]["comfyui"]["url"] == "http://[::1]:8000"


def test_the_main_process_says_what_it_is_whatever_it_runs() -> None:
    swap = Process(7, "llama-swap", "/usr/bin/llama-swap -config c.yaml", "swap.service", is_main=True)
    child = Process(8, "llama-server", "llama-server --models-dir /m --port 5800", "swap.service", used_mib={0: 9000})
    ports = (Listener("127.0.0.1", 5800, 8), Listener("127.0.0.1", 9292, 7))

    (found,) = findings(host_of(swap, child, ports=ports), PRESETS)

    assert found.preset is not None
    assert (found.preset.name, found.used_mib) == ("llama-swap", 9000)
    assert consumer_urls([found]) == {"llama-swap": (found.preset, "http://127.0.0.1:9292")}


def test_a_unit_is_recognised_by_its_name_alone() -> None:
    (found,) = findings(Host(units={"ollama.service": "", "ssh.service": ""}), PRESETS)

    assert found.preset is not None
    assert (found.preset.name, found.why) == ("ollama", "the name of its unit")


def test_several_of_one_kind_are_named_after_their_units(tmp_path: Path) -> None:
    text = text_of(host_of(comfyui(), comfyui(8, "comfyui@b.service", 100), comfyui(9, "", 50), comfyui(10, "", 51)))

    assert problems(text, tmp_path) == []
    assert list(tomllib.loads(text)["consumers"]) == ["comfyui", "comfyui-2", "comfyui-3", "comfyui-b"]


def test_what_only_a_unit_could_evict_and_has_none_is_left_commented_out(tmp_path: Path) -> None:
    text = text_of(host_of(Process(7, "x", "text-embeddings-router", "docker-1.scope", used_mib={0: 2000})))

    assert problems(text, tmp_path) == []
    assert "consumers" not in tomllib.loads(text)
    assert "# [consumers.tei]" in text
    assert "name the unit that starts it" in text


def test_strangers_are_offered_where_they_are_services_and_only_told_of_else() -> None:
    text = text_of(
        host_of(
            Process(7, "python", "python train.py", "training.service", used_mib={0: 4000}),
            Process(8, "firefox", "firefox", "session-2.scope", used_mib={0: 900}),
            Process(9, "gpumand", "gpumand", "gpumand.service", used_mib={0: 10}),
        )
    )

    assert "consumers" not in tomllib.loads(text)
    assert '# unit = "training.service"\n# vram_resident_mib = 4000\n' in text
    assert "900 MiB by no service: pid 8, firefox" in text
    assert "gpumand.service" not in text


def test_a_port_alone_is_a_hint_and_no_consumer() -> None:
    text = text_of(Host(listeners=(Listener("0.0.0.0", 5000), Listener("0.0.0.0", 22)), unseen=True))

    assert "#   5000: tabbyapi" in text
    assert "consumers" not in tomllib.loads(text)
    assert "could not be seen: root sees more" in text
    assert "could not be seen: not even by root" in text_of(Host(unseen=True, as_root=True))


def test_nothing_found_shows_how_to_begin(tmp_path: Path) -> None:
    text = text_of(Host(driver_error="nvml-library-missing: none", units_error="there is no bus"))

    assert problems(text, tmp_path) == []
    assert "Nothing that runs was recognised" in text
    assert "Nothing could be read just now: nvml-library-missing" in text
    assert "Units were not looked at: there is no bus" in text


def test_names_and_command_lines_cannot_break_out_of_the_file(tmp_path: Path) -> None:
    evil = 'ComfyUI\n[gpu]\nsource = "none" \x1b[31m \u2028 "'
    process = Process(7, 'a"\n', evil, "comfyui.service", used_mib={0: 100})
    host = Host({"comfyui.service": 'd\n[x]\n"'}, {7: process}, (), (Device(0, "G\n[y]\n", None),), "e\n[z]")

    text = text_of(host, {"comfyui": "answered\n[w]"})

    assert problems(text, tmp_path) == []
    assert set(tomllib.loads(text)) == {"consumers"}
    assert '\n# source = "nvml"\n' in text


def test_what_it_answered_is_told() -> None:
    assert "Asked how it is, it answered." in text_of(host_of(comfyui()), {"comfyui": "answered"})


def test_a_service_of_a_user_is_for_that_users_gpumand() -> None:
    text = text_of(host_of(Process(7, "python3", "python3 ComfyUI/main.py", "user@1000.service", used_mib={0: 9})))

    assert "unit" not in tomllib.loads(text)["consumers"]["comfyui"]
    assert "gpumanctl init --user" in text
