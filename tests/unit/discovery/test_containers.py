"""From containers on a host to a starter configuration."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpumand.config import ConfigProblems, load
from gpumand.config.presets import preset, preset_names
from gpumand.discovery.container_scan import with_containers
from gpumand.discovery.containers import FoundContainer, find_containers, image_name
from gpumand.discovery.host import Device, Host, Listener, Process
from gpumand.discovery.matching import find_candidates, likely_ports
from gpumand.discovery.starter_config import starting_configuration
from gpumand.domain.cgroups import place_of
from gpumand.domain.container import ContainerState, PublishedPort
from gpumand.domain.container_clients import ContainerClient
from gpumand.domain.container_rules import ProcessPlace
from gpumand.vram.container_links import Evidence
from gpumand.vram.container_places import RunningClient

ID, OTHER = "3f1c" * 16, "77aa" * 16
PRESETS = [preset(name) for name in preset_names()]
DOCKER = ProcessPlace(place_of(f"/system.slice/docker-{ID}.scope"))
STATE = ContainerState(
    "docker",
    ID,
    "ui",
    True,
    7,
    "no",
    "yanwk/comfyui-boot:cu128",
    (PublishedPort("127.0.0.1", 9000, 8188),),
    ("172.17.0.2",),
)
PROCESS = Process(7, "python3", "python3 main.py", f"docker-{ID}.scope", used_mib={0: 9000})
PROXY = Listener("127.0.0.1", 9000, 50)


def text_of(
    *containers: FoundContainer, processes: tuple[Process, ...] = (PROCESS,), ports: tuple[Listener, ...] = (PROXY,)
) -> str:
    by_pid = with_containers({one.pid: one for one in processes}, containers)
    found_units = [*(one.unit for one in processes), *(one.unit for one in containers)]
    units = {unit: "" for unit in found_units if unit.endswith(".service")}
    host = Host(units, by_pid, ports, (Device(0, "RTX 4090", 24564),), containers=containers)
    found = find_candidates(host, PRESETS)
    return starting_configuration(host, found, likely_ports(host, PRESETS, found), ("nvml",), {})


def consumers_of(text: str, tmp_path: Path) -> dict[str, Any]:
    """The consumers of a generated configuration, which must be valid."""
    file = tmp_path / "made.toml"
    file.write_text(text, encoding="utf-8")
    try:
        load(file)
    except ConfigProblems as error:
        pytest.fail(f"{error.problems}\n{text}")
    return dict(tomllib.loads(text).get("consumers", {}))


def found(
    place: ProcessPlace = DOCKER, state: ContainerState | None = STATE, evidence: Evidence | None = None
) -> FoundContainer:
    states = () if state is None else (state,)
    (one,) = find_containers({7: place}, states, evidence or Evidence())
    return one


def test_container_of_docker_is_recognised_by_its_image_and_reached_at_its_published_port(tmp_path: Path) -> None:
    consumers = consumers_of(text_of(found()), tmp_path)
    assert consumers == {
        "comfyui": {
            "preset": "comfyui",
            "container": "ui",
            "url": "http://127.0.0.1:9000",
            "vram_resident_mib": 9000,
        }
    }


def test_container_without_an_engine_that_answers_is_recognised_by_its_command_line(tmp_path: Path) -> None:
    place = replace(DOCKER, name="ui")
    process = replace(PROCESS, command="python3 /root/ComfyUI/main.py")
    consumers = consumers_of(text_of(found(place, None), processes=(process,)), tmp_path)
    assert (consumers["comfyui"]["preset"], consumers["comfyui"]["container"]) == ("comfyui", "ui")


def test_unknown_name_becomes_the_id_with_the_advice_to_run_it_as_root(tmp_path: Path) -> None:
    process = replace(PROCESS, command="python3 ComfyUI/main.py")
    text = text_of(found(DOCKER, None), processes=(process,))
    assert consumers_of(text, tmp_path)["comfyui"]["container"] == ID[:12]
    assert "run gpumanctl init as root to find its name" in text


def test_unit_whose_client_started_the_container_is_written_beside_it(tmp_path: Path) -> None:
    client = RunningClient(place_of("/system.slice/comfyui.service"), 1, ContainerClient("run", ("ui",)))
    one = found(evidence=Evidence((client,)))
    main = Process(50, "docker", "docker run --name ui img", "comfyui.service", is_main=True)
    consumers = consumers_of(text_of(one, processes=(PROCESS, main)), tmp_path)
    assert list(consumers) == ["comfyui"]
    assert (consumers["comfyui"]["unit"], consumers["comfyui"]["container"]) == ("comfyui.service", "ui")


@pytest.mark.parametrize("unit", ["cron.service", "pm2-root.service", "supervisor.service"])
def test_unit_of_many_programs_that_started_a_container_is_not_written_beside_it(unit: str, tmp_path: Path) -> None:
    client = RunningClient(place_of(f"/system.slice/{unit}"), 1, ContainerClient("run", ("ui",)))
    monitored = ProcessPlace(place_of(f"/machine.slice/libpod-{ID}.scope/container"), "ui", unit)
    for one in (found(evidence=Evidence((client,))), found(monitored, None)):
        assert one.unit == ""
    text = text_of(found(evidence=Evidence((client,))))
    assert consumers_of(text, tmp_path)["comfyui"]["container"] == "ui"
    assert unit not in text


@pytest.mark.parametrize(
    ("place", "state"),
    [
        (ProcessPlace(place_of(f"/system.slice/comfyui.service/libpod-payload-{ID}")), None),
        (ProcessPlace(place_of(f"/machine.slice/libpod-{ID}.scope/container"), "x", "comfyui.service"), None),
        (
            ProcessPlace(place_of(f"/machine.slice/libpod-{ID}.scope/container")),
            replace(STATE, engine="podman", labels=(("PODMAN_SYSTEMD_UNIT", "comfyui.service"),)),
        ),
    ],
    ids=["split cgroup", "unit of the monitor", "label"],
)
def test_quadlet_is_a_service_like_any_other(place: ProcessPlace, state: ContainerState | None, tmp_path: Path) -> None:
    process = replace(PROCESS, command="python3 ComfyUI/main.py")
    consumers = consumers_of(text_of(found(place, state), processes=(process,)), tmp_path)
    assert consumers["comfyui"]["unit"] == "comfyui.service"
    assert "container" not in consumers["comfyui"]


def test_server_that_only_a_stop_can_evict_needs_no_unit_in_a_container(tmp_path: Path) -> None:
    state = replace(STATE, image="ghcr.io/huggingface/text-embeddings-inference:1.8")
    consumers = consumers_of(text_of(found(state=state)), tmp_path)
    assert (consumers["tei"]["container"], "unit" in consumers["tei"]) == ("ui", False)


def test_two_containers_of_one_image_are_two_consumers(tmp_path: Path) -> None:
    other = replace(STATE, id=OTHER, name="ui2", pid=8)
    places = {7: DOCKER, 8: ProcessPlace(place_of(f"/docker/{OTHER}"))}
    containers = find_containers(places, (STATE, other), Evidence())
    text = text_of(*containers, processes=(PROCESS, replace(PROCESS, pid=8)))
    assert {name: keys["container"] for name, keys in consumers_of(text, tmp_path).items()} == {
        "ui": "ui",
        "ui2": "ui2",
    }


def test_name_that_both_engines_have_gets_the_engine() -> None:
    other = replace(STATE, id=OTHER, engine="podman")
    places = {7: DOCKER, 8: ProcessPlace(place_of(f"/machine.slice/libpod-{OTHER}.scope"))}
    containers = find_containers(places, (STATE, other), Evidence())
    assert sorted(one.reference for one in containers) == ["docker:ui", "podman:ui"]


def test_name_that_compose_will_give_back_is_the_one_of_the_configuration() -> None:
    labels = (("com.docker.compose.service", "ui"),)
    assert found(state=replace(STATE, name="0123456789ab_ui", labels=labels)).reference == "ui"
    assert found(state=replace(STATE, name="0123456789ab_ui", labels=labels)).name == "0123456789ab_ui"
    assert found(state=replace(STATE, name="0123456789ab_ui")).reference == "0123456789ab_ui"
    assert found(state=replace(STATE, labels=labels)).reference == "ui"


def test_port_that_is_published_by_dnat_only_comes_with_the_drop_in(tmp_path: Path) -> None:
    state = replace(STATE, engine="podman", addresses=("10.88.0.5",))
    text = text_of(found(state=state), ports=())
    assert "IPAddressAllow=10.88.0.0/16" in text
    assert "IPAddressAllow" not in text_of(found(state=state))
    consumers_of(text, tmp_path)


def test_container_without_published_ports_is_reached_at_its_own_address(tmp_path: Path) -> None:
    one = replace(found(), ports=(), inner_ports=(8188,))
    assert consumers_of(text_of(one, ports=()), tmp_path)["comfyui"]["url"] == "http://172.17.0.2:8188"


def test_restart_policy_that_undoes_the_stop_of_a_unit_is_named(tmp_path: Path) -> None:
    client = RunningClient(place_of("/system.slice/comfyui.service"), 1, ContainerClient("run", ("ui",)))
    state = replace(STATE, restart_policy="unless-stopped")
    assert "Its restart policy is unless-stopped" in text_of(found(state=state, evidence=Evidence((client,))))
    assert "restart policy" not in text_of(found(state=state)), "a stop through the engine's API is respected"


def test_lxc_and_kubernetes_are_found_by_name_and_by_cgroup(tmp_path: Path) -> None:
    process = replace(PROCESS, command="python3 ComfyUI/main.py")
    lxc = found(ProcessPlace(place_of("/lxc.payload.gpu/system.slice/a.service")), None)
    consumer = consumers_of(text_of(lxc, processes=(process,)), tmp_path)["comfyui"]
    assert (consumer["container"], consumer["evict"]) == ("gpu", ["http"])
    assert load(tmp_path / "made.toml").consumers["comfyui"].service == "", "no engine can start it"
    pod = "/kubepods.slice/kubepods-pod6c1a2b3d_1.slice"
    kubernetes = found(ProcessPlace(place_of(f"{pod}/cri-containerd-{ID}.scope")), None)
    assert consumers_of(text_of(kubernetes, processes=(process,)), tmp_path)["comfyui"]["cgroup"] == pod


def test_container_of_another_user_is_left_to_that_users_daemon() -> None:
    place = ProcessPlace(place_of(f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"))
    assert "gpumanctl init --user" in text_of(found(place, replace(STATE, engine="podman")))


def test_unknown_server_in_a_container_is_offered_as_a_comment(tmp_path: Path) -> None:
    text = text_of(found(state=replace(STATE, image="my/thing")))
    assert '# container = "ui"' in text
    assert "in container ui" in text
    assert consumers_of(text, tmp_path) == {}


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("ollama/ollama", "ollama/ollama"),
        ("docker.io/ollama/ollama:latest", "ollama/ollama:latest"),
        ("ghcr.io/ggml-org/llama.cpp:server-cuda", "ggml-org/llama.cpp:server-cuda"),
        ("registry:5000/vllm/vllm-openai@sha256:abc", "vllm/vllm-openai"),
        ("localhost/comfyui", "comfyui"),
        ("docker.io/library/debian", "debian"),
        ("", ""),
    ],
)
def test_images_without_registry(image: str, name: str) -> None:
    assert image_name(image) == name


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("ollama/ollama:0.12", "ollama"),
        ("vllm/vllm-openai:latest", "vllm"),
        ("ghcr.io/ggml-org/llama.cpp:server-cuda", "llama-server"),
        ("ghcr.io/ggml-org/llama.cpp:full", None),
        ("ghcr.io/speaches-ai/speaches:latest-cuda", "speaches"),
        ("ghcr.io/mostlygeek/llama-swap:cuda", "llama-swap"),
        ("lmsysorg/sglang:latest", "sglang"),
        ("mmartial/comfyui-nvidia-docker:latest", "comfyui"),
        ("ghcr.io/open-webui/open-webui:main", None),
    ],
)
def test_known_images(image: str, expected: str | None) -> None:
    container = found(state=replace(STATE, image=image))
    process = replace(PROCESS, container=container.key, command="")
    host = Host({}, {7: process}, (), containers=(container,))
    (candidate,) = find_candidates(host, PRESETS)
    assert (candidate.preset.name if candidate.preset else None) == expected
