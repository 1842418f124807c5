"""The model, the role and the footprint in a starter configuration: what the server says, and no idle reading."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from gpumand.config.presets import preset, preset_names
from gpumand.discovery.host import Host, Listener, Process
from gpumand.discovery.matching import Candidate, find_candidates
from gpumand.discovery.missing_keys import missing_keys
from gpumand.discovery.roles import with_role
from gpumand.discovery.server_models import ServerModels
from gpumand.discovery.starter_config import question_urls, starting_configuration
from tests.unit.discovery.test_starter_config import comfyui, host_with, problems

PRESETS = [preset(name) for name in preset_names()]


def text_for(process: Process, models: ServerModels | None = None, health: str = "", *, port: int = 0) -> str:
    ports = (Listener("127.0.0.1", port, process.pid),) if port else ()
    found = find_candidates(host_with(process, ports=ports), PRESETS)
    (name,) = [one.preset.name for one in found if one.preset]
    return starting_configuration(
        Host(), found, [], (), {name: health} if health else {}, {name: models} if models else {}
    )


def keys_of(text: str) -> dict[str, object]:
    (keys,) = tomllib.loads(text)["consumers"].values()
    return dict(keys)


@pytest.mark.parametrize("idle_mib", [200, 448, 1900])
def test_the_idle_memory_of_a_lazy_server_is_not_written_as_its_footprint(idle_mib: int, tmp_path: Path) -> None:
    text = text_for(comfyui(mib=idle_mib))
    assert "vram_resident_mib" not in keys_of(text)
    assert "# vram_resident_mib = MIB  # peak VRAM use while loaded (" in text
    assert " now, which may be without a model), or" in text
    assert missing_keys(text) == ["comfyui: vram_resident_mib"]
    assert problems(text, tmp_path) == []


@pytest.mark.parametrize("name", [one.name for one in PRESETS if one.about.class_ != "unit-only"])
def test_a_small_reading_is_a_footprint_only_for_servers_that_hold_their_model_while_they_run(name: str) -> None:
    pattern = preset(name).about.detect.commands[0].replace("*", " ")
    text = text_for(Process(7, "x", pattern, "x.service", used_mib={0: 448}))
    assert preset(name).about.title in text
    assert "vram_resident_mib" not in keys_of(text)


def test_a_reading_counts_if_the_server_says_that_its_model_is_loaded() -> None:
    assert keys_of(text_for(comfyui(mib=900), health="ok, model loaded"))["vram_resident_mib"] == 900
    assert "vram_resident_mib" not in keys_of(text_for(comfyui(mib=9000), health="ok, model not loaded"))
    tei = Process(7, "x", "text-embeddings-router", "tei.service", used_mib={0: 400})
    assert keys_of(text_for(tei))["vram_resident_mib"] == 400


OLLAMA = Process(7, "ollama", "/usr/bin/ollama serve", "ollama.service", is_main=True, used_mib={0: 6144})


def test_the_model_in_memory_is_chosen_and_its_memory_is_the_footprint(tmp_path: Path) -> None:
    text = text_for(OLLAMA, ServerModels(("a:7b", "llama3.1:8b"), ("llama3.1:8b",)))
    assert keys_of(text) == {
        "preset": "ollama",
        "model": "llama3.1:8b",
        "unit": "ollama.service",
        "vram_resident_mib": 6144,
    }
    assert 'model = "llama3.1:8b"  # loaded now' in text
    assert "# Other models of the server, each a consumer of its own: a:7b" in text
    assert (problems(text, tmp_path), missing_keys(text)) == ([], [])


def test_without_a_model_in_memory_the_first_is_a_guess_and_the_footprint_is_missing() -> None:
    text = text_for(OLLAMA, ServerModels(("a:7b", "b:7b"), ()))
    assert 'model = "a:7b"  # guessed: the first that the server lists' in text
    assert "6.0 GiB now, without a model" in text
    assert missing_keys(text) == ["ollama: vram_resident_mib"]
    only = text_for(OLLAMA, ServerModels(("a:7b",), ()))
    assert 'model = "a:7b"  # the only model of the server' in only


def test_the_memory_of_several_models_is_not_the_footprint_of_one() -> None:
    text = text_for(OLLAMA, ServerModels(("a:7b", "b:7b"), ("a:7b", "b:7b")))
    assert "6.0 GiB now, with 2 models" in text
    assert "vram_resident_mib" not in keys_of(text)


def test_a_server_that_does_not_list_its_models_leaves_the_model_to_fill_in_and_says_why() -> None:
    text = text_for(OLLAMA, ServerModels(error="/api/ps answered 401: no\n[gpu]"))
    assert "model" not in keys_of(text)
    assert "the server did not list its models: /api/ps answered 401: no [gpu]" in text
    assert set(tomllib.loads(text)) == {"consumers"}


def test_names_of_models_cannot_escape_their_line() -> None:
    evil = 'a"\n[gpu] # \u2028'
    text = text_for(OLLAMA, ServerModels((evil, "b" + evil), ()))
    assert set(tomllib.loads(text)) == {"consumers"}
    assert keys_of(text)["model"] == evil


def llama_server(*flags: str) -> Candidate:
    words = " ".join(("/usr/bin/llama-server", *flags))
    (one,) = find_candidates(host_with(Process(7, "llama-server", words, "llama-server.service")), PRESETS)
    return one


@pytest.mark.parametrize(
    ("role", "flags", "name"),
    [
        ("router", (), "llama-cpp-router"),
        ("router", ("-m", "x.gguf"), "llama-cpp-router"),
        (None, (), "llama-server"),
        ({"role": 1}, (), "llama-server"),
    ],
)
def test_the_answer_to_props_decides_between_a_router_and_a_single_server(
    role: object, flags: tuple[str, ...], name: str
) -> None:
    one = with_role(llama_server(*flags), "http://127.0.0.1:8080", role, True)
    assert one.preset is not None
    assert (one.preset.name, one.guess) == (name, "")


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ((), "llama-cpp-router"),
        (("--host", "::", "--port", "8080"), "llama-cpp-router"),
        (("-m", "/srv/model.gguf"), "llama-server"),
        (("--model=/srv/model.gguf",), "llama-server"),
        (("-hf", "ggml-org/gemma"), "llama-server"),
        (("--fim-qwen-7b-default",), "llama-server"),
        (("--models-dir", "/srv"), "llama-cpp-router"),
    ],
)
def test_without_an_answer_the_command_line_decides_and_the_result_is_marked_as_a_guess(
    flags: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    one = with_role(llama_server(*flags), "http://127.0.0.1:8080", None, False)
    assert one.preset is not None
    assert one.preset.name == name
    is_guess = name == "llama-cpp-router" and "--models-dir" not in flags
    assert bool(one.guess) is is_guess
    text = starting_configuration(Host(), [one], [], (), {})
    assert ("# Guessed: it is a router" in text) is is_guess
    assert ("curl http://127.0.0.1:8080/props" in text) is is_guess


def test_a_server_whose_port_has_a_hidden_owner_is_asked_at_its_default_port() -> None:
    host = host_with(OLLAMA, ports=(Listener("127.0.0.1", 11434),))
    assert question_urls(host, find_candidates(host, PRESETS)) == ["http://127.0.0.1:11434"]
    closed = host_with(OLLAMA)
    assert question_urls(closed, find_candidates(closed, PRESETS)) == [""]


@pytest.mark.parametrize("name", [one.name for one in PRESETS if one.about.model != "none"])
def test_every_preset_with_a_model_can_ask_for_it(name: str) -> None:
    # audio.cpp has no route that lists its models.
    assert bool(preset(name).about.models) == (name != "audio-cpp")
