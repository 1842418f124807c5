"""The plan for the swap of ports: how each kind of service moves, and which services a person has to move."""

from __future__ import annotations

from typing import Any

import pytest

from gpumand.config.presets import preset, preset_names
from gpumand.discovery.port_swap import Skipped, Swap, UnitCommand, free_port, plan_swaps
from gpumand.domain.consumer import ConsumerSpec

COMFYUI = ("/usr/bin/python3", "/opt/ComfyUI/main.py")


def swap(used: str, port: int, command: UnitCommand | None, **changes: Any) -> Swap:
    """The plan for one consumer in a unit."""
    spec = ConsumerSpec("it", 1000, url=f"http://127.0.0.1:{port}", unit="it.service")
    commands = {} if command is None else {"it.service": command}
    presets = {"it": preset(used)} if used else {}
    swaps, skipped = plan_swaps({"it": spec}, presets, commands, changes.pop("listening", {port}), {}, **changes)
    assert skipped == []
    (one,) = swaps
    return one


def test_ollama_moves_by_its_environment() -> None:
    found = swap("ollama", 11434, UnitCommand(("/usr/local/bin/ollama", "serve")))
    assert (found.old_port, found.new_port, found.todo) == (11434, 11435, "")
    assert found.drop_in == "[Service]\nEnvironment=OLLAMA_HOST=127.0.0.1:11435\n"
    assert found.url == "http://127.0.0.1:11435"


@pytest.mark.parametrize(
    ("command", "exposed", "expected"),
    [
        (UnitCommand(("/usr/bin/it", "--port", "8080")), (), False),
        (UnitCommand(("/usr/bin/it", "--port", "8080")), (8080,), True),
        (UnitCommand(("/usr/bin/it", "--host", "0.0.0.0", "--port", "8080")), (), True),
        (UnitCommand(("/usr/bin/it", "--listen=[::]", "--port=8080")), (), True),
        (UnitCommand(("/usr/bin/it", "--address", ":8080")), (), True),
        (UnitCommand(("/usr/bin/it", "--address", "127.0.0.1:8080")), (), False),
        (UnitCommand(("/usr/bin/it",), ("OLLAMA_HOST=0.0.0.0:8080",)), (), True),
        (UnitCommand(("/usr/bin/it", "--port", "8080"), ("OLLAMA_HOST=0.0.0.0",)), (), True),
        (UnitCommand(("/usr/bin/it", "--port", "8080", "--origins", "*"), ("OLLAMA_ORIGINS=*",)), (), False),
        (None, (8080,), True),
        (None, (9090,), False),
    ],
)
def test_swap_after_which_other_hosts_no_longer_reach_the_service_says_so(
    command: UnitCommand | None, exposed: tuple[int, ...], expected: bool
) -> None:
    assert swap("llama-server", 8080, command, exposed=exposed).is_narrowed is expected


def test_service_that_was_moved_before_loses_nothing() -> None:
    found = swap("ollama", 11435, UnitCommand(("ollama",), ("OLLAMA_HOST=0.0.0.0:11435",)), exposed={11435})
    assert (found.is_moved, found.is_narrowed) == (True, False)


def test_port_in_the_environment_is_changed_there_and_hidden_from_other_hosts() -> None:
    command = UnitCommand(("/usr/bin/ollama", "serve"), ("OLLAMA_HOST=0.0.0.0:11434", "OLLAMA_DEBUG=1"))
    assert swap("ollama", 11434, command).drop_in == "[Service]\nEnvironment=OLLAMA_HOST=127.0.0.1:11435\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--port", "8080"), "--port 8081"),
        (("--port=8080",), "--port=8081"),
        (("-p", "8080"), "-p 8081"),
        (("--listen", ":8080"), "--listen 127.0.0.1:8081"),
        (("--address", "0.0.0.0:8080"), "--address 127.0.0.1:8081"),
        (("--host", "0.0.0.0", "--port", "8080"), "--host 127.0.0.1 --port 8081"),
        (("--host=0.0.0.0", "--port", "8080"), "--host=127.0.0.1 --port 8081"),
        (("--model", "a model.gguf", "--port", "8080"), '--model "a model.gguf" --port 8081'),
        (("--alias", "50%", "--port", "8080"), "--alias 50%% --port 8081"),
        (("--key", "$KEY", "--port", "8080"), "--key $KEY --port 8081"),
    ],
)
def test_port_on_the_command_line_is_changed_there(words: tuple[str, ...], expected: str) -> None:
    found = swap("llama-server", 8080, UnitCommand(("/usr/bin/llama-server", *words)))
    assert found.drop_in == f"[Service]\nExecStart=\nExecStart=/usr/bin/llama-server {expected}\n"


def test_server_at_its_default_port_gets_the_arguments_of_its_preset() -> None:
    expected = "[Service]\nExecStart=\nExecStart=/usr/bin/python3 /opt/ComfyUI/main.py --port 8189\n"
    assert swap("comfyui", 8188, UnitCommand(COMFYUI)).drop_in == expected


@pytest.mark.parametrize(
    "command",
    [
        None,
        UnitCommand(),
        UnitCommand(("/bin/sh", "-c", "exec python3 main.py")),
        UnitCommand(("/usr/bin/docker", "run", "comfyui")),
        UnitCommand(("/usr/bin/python3", "-c", "serve()")),
        UnitCommand(("/opt/run", "--port", "8188", "--other-port", "8188")),
    ],
)
def test_command_that_is_not_understood_is_left_to_a_person(command: UnitCommand | None) -> None:
    if command is not None and "--other-port" in command.argv:
        found = swap("", 8188, command)
    else:
        found = swap("comfyui", 8188, command)
    assert found.drop_in == ""
    assert found.todo == "let it.service listen at 127.0.0.1:8189 instead of 8188"
    assert not found.is_moved


def test_number_that_is_no_port_is_not_changed() -> None:
    found = swap("comfyui", 8188, UnitCommand((*COMFYUI, "--seed=123", "8188", "--steps", "8188")))
    assert found.drop_in.endswith("--seed=123 8188 --steps 8188 --port 8189\n")


def test_new_port_is_free() -> None:
    found = swap("ollama", 11434, UnitCommand(("/usr/bin/ollama", "serve")), listening={11434, 11435, 11436})
    assert found.new_port == 11437
    with pytest.raises(LookupError):
        free_port(65535, {65535})


def test_service_that_was_moved_before_only_needs_the_listener() -> None:
    found = swap("ollama", 11435, UnitCommand(("/usr/bin/ollama", "serve")))
    assert found.is_moved
    assert (found.old_port, found.new_port) == (11434, 11435)


def test_service_at_an_unusual_port_moves_when_its_usual_port_is_taken() -> None:
    found = swap("ollama", 12000, UnitCommand(("/usr/bin/ollama", "serve")), listening={11434, 12000})
    assert (found.old_port, found.new_port) == (12000, 12001)


def test_container_is_published_elsewhere_by_a_person() -> None:
    spec = ConsumerSpec("it", 1000, url="http://127.0.0.1:8188", container="comfy")
    (one,), _ = plan_swaps({"it": spec}, {"it": preset("comfyui")}, {}, {8188}, {})
    assert "container comfy: publish its port as 127.0.0.1:8189 instead of 8188" in one.todo


def test_consumers_without_a_swap_are_named_with_the_reason() -> None:
    url = "http://127.0.0.1:11434"
    consumers = {
        "a": ConsumerSpec("a", 1, url=url),
        "b": ConsumerSpec("b", 1, url=url),
        "unit": ConsumerSpec("unit", 1, unit="unit.service"),
        "far": ConsumerSpec("far", 1, url="http://192.0.2.1:80"),
        "done": ConsumerSpec("done", 1, url="http://127.0.0.1:8189"),
    }
    swaps, skipped = plan_swaps(consumers, {}, {}, set(), {"done": [8188]})
    assert swaps == []
    assert skipped == [
        Skipped("a", f"it shares {url} with b, and a listener leads to one consumer"),
        Skipped("b", f"it shares {url} with a, and a listener leads to one consumer"),
        Skipped("unit", "it has no HTTP address on this host"),
        Skipped("far", "it has no HTTP address on this host"),
        Skipped("done", "the gateway has a listener for it already"),
    ]


def test_two_services_do_not_get_the_same_port() -> None:
    consumers = {
        name: ConsumerSpec(name, 1, url=f"http://127.0.0.1:{port}", unit=f"{name}.service")
        for name, port in (("a", 9000), ("b", 9001))
    }
    swaps, _ = plan_swaps(consumers, {}, {}, {9000, 9001}, {})
    ports = [port for one in swaps for port in (one.old_port, one.new_port)]
    assert len(set(ports)) == 4


def test_every_port_setting_of_a_preset_contains_the_port() -> None:
    abouts = [preset(name).about for name in preset_names()]
    variables = [one.port_variable for one in abouts if one.port_variable]
    arguments = [one.port_arguments for one in abouts if one.port_arguments]
    assert len(variables) + len(arguments) >= 20
    assert all("=" in one and "{port}" in one.partition("=")[2] for one in variables)
    assert all(any("{port}" in word for word in words) for words in arguments)


@pytest.mark.parametrize(
    ("url", "bound", "expected"),
    [
        ("http://192.168.1.5:11434", {11434: "192.168.1.5"}, True),
        ("http://127.0.0.1:11434", {11434: "192.168.1.5"}, True),
        ("http://[fd00::5]:11434", {11434: "fd00::5"}, True),
        ("http://127.0.0.1:11434", {}, False),
        ("http://127.0.0.1:11434", {8080: "192.168.1.5"}, False),
    ],
)
def test_service_at_an_address_of_a_network_only_is_not_moved_and_the_reason_names_it(
    url: str, bound: dict[int, str], expected: bool
) -> None:
    spec = ConsumerSpec("it", 1000, url=url, unit="it.service")
    commands = {"it.service": UnitCommand(("ollama", "serve"), ("OLLAMA_HOST=192.168.1.5",))}
    swaps, skipped = plan_swaps({"it": spec}, {"it": preset("ollama")}, commands, set(bound), {}, bound=bound)
    assert (not swaps, [one.why.startswith(f"it listens at {next(iter(bound.values()))} only") for one in skipped]) == (
        (True, [True]) if expected else (False, [])
    )


def test_service_of_another_host_is_not_taken_for_one_of_this_host() -> None:
    spec = ConsumerSpec("it", 1000, url="http://192.168.1.9:11434")
    _, skipped = plan_swaps({"it": spec}, {}, {}, {11434}, {}, bound={11434: "192.168.1.5"})
    assert skipped == [Skipped("it", "it has no HTTP address on this host")]
