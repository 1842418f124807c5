"""Each preset has the keys that were verified, and a consumer can override them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gpumand.config import load
from gpumand.config.consumer_schema import ConsumerTable
from gpumand.config.presets import preset, preset_names
from gpumand.config.problems import Place, ProblemList
from gpumand.config.table_schema import read_keys
from gpumand.consumers.answers import Answer, parse_health
from gpumand.domain.consumer import BusyRoute, ConsumerSpec, EvictionMethod, HealthRoute, Route

HTTP, UNIT_STOP = EvictionMethod.HTTP, EvictionMethod.UNIT_STOP


def spec(tmp_path: Path, text: str) -> ConsumerSpec:
    file = tmp_path / "gpumand.toml"
    file.write_text(f"[consumers.it]\nvram_resident_mib = 6144\n{text}\n", encoding="utf-8")
    return load(file).consumers["it"]


@pytest.mark.parametrize("name", preset_names())
def test_preset_is_valid_and_names_its_sources(name: str) -> None:
    problems = ProblemList()
    one = preset(name)

    read_keys(ConsumerTable, one.consumer("some/model"), Place(one.document, ("consumer",)), problems)

    assert problems.entries == []
    assert one.about.sources
    assert one.about.notes
    assert set(one.document.table) - {"without_model"} == {"preset", "consumer", "routes"}
    assert one.about.model == "optional" or "without_model" not in one.document.table
    names_model = "model}" in str(one.document.table["consumer"])
    assert names_model == (one.about.model != "none")


@pytest.mark.parametrize("name", preset_names())
def test_preset_without_its_optional_model_is_valid_and_keeps_its_health_check(name: str) -> None:
    problems = ProblemList()
    one = preset(name)
    if one.about.model != "optional":
        assert one.about.model in ("none", "required")
        return

    keys = read_keys(ConsumerTable, one.consumer(""), Place(one.document, ("consumer",)), problems)

    assert problems.entries == []
    assert ("health" in keys) == ("health" in one.document.table["consumer"])
    assert "model}" not in str(keys)


@pytest.mark.parametrize("name", preset_names())
def test_health_check_of_a_server_with_several_models_asks_for_the_consumers_own(name: str) -> None:
    one = preset(name)
    health = one.document.table["consumer"].get("health", {})
    distinguishes = "model}" in str(health)

    # audio.cpp has no route that lists its models, and KoboldCpp shows a model but not its configuration.
    assert distinguishes == (one.about.model != "none" and name not in ("audio-cpp", "koboldcpp"))


@pytest.mark.parametrize("name", preset_names())
def test_preset_document_is_the_content_of_its_file(name: str) -> None:
    one = preset(name)

    assert tomllib.loads(Path(one.document.file).read_text(encoding="utf-8")) == one.document.table


@pytest.mark.parametrize("name", preset_names())
def test_preset_has_the_routes_of_its_class(name: str) -> None:
    one = preset(name)
    routes = {"load", "unload"} & one.document.table["consumer"].keys()

    assert routes == {
        "full-rest": {"load", "unload"},
        "sleep-wake": {"load", "unload"},
        "restart": {"load", "unload"},
        "unload-only": {"unload"},
        "unit-only": set(),
    }.get(one.about.class_)
    assert not one.about.async_unload or "unload" in routes


@pytest.mark.parametrize("name", preset_names())
def test_preset_leads_to_the_project_of_its_server(name: str) -> None:
    parts = urlsplit(preset(name).about.homepage)

    assert (parts.scheme, bool(parts.hostname), parts.query) == ("https", True, "")


@pytest.mark.parametrize("name", preset_names())
def test_preset_has_signs_for_discovery(name: str) -> None:
    about, keys = preset(name).about, preset(name).document.table["consumer"]

    assert about.detect.units
    assert about.detect.commands
    port = urlsplit(keys.get("url", "")).port
    assert about.detect.ports == ((port,) if port else ())
    assert bool(port) != any("no default port" in note for note in about.notes) or not routes_of(keys)


def routes_of(keys: dict[str, Any]) -> set[str]:
    return {"health", "busy", "load", "unload"} & keys.keys()


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_makes_a_consumer(name: str, tmp_path: Path) -> None:
    keys = preset(name).document.table["consumer"]
    text = f'preset = "{name}"\nunit = "it.service"'
    text += '\nmodel = "a/b"' if preset(name).about.model == "required" else ""
    text += '\nurl = "http://h:1"' if routes_of(keys) and "url" not in keys else ""

    one = spec(tmp_path, text)

    assert one.preset == name
    assert UNIT_STOP in one.evict
    assert (HTTP in one.evict) == (one.unload is not None)


def test_shipped_presets() -> None:
    assert {"a1111", "comfyui", "forge", "llama-cpp-router", "ollama", "vllm", "sglang", "tei"} <= set(preset_names())
    assert not {"docker-model-runner", "triton", "sd-next"} & set(preset_names())  # their routes are not verified


def test_ollama_with_a_model(tmp_path: Path) -> None:
    assert spec(tmp_path, 'preset = "ollama"\nmodel = "hf.co/a/b:Q4_K_M"') == ConsumerSpec(
        "it",
        6144,
        url="http://127.0.0.1:11434",
        health=HealthRoute(
            "/api/ps",
            loaded="/models/[name=hf.co~1a~1b:Q4_K_M]",
            size="/models/[name=hf.co~1a~1b:Q4_K_M]/size",
            size_vram="/models/[name=hf.co~1a~1b:Q4_K_M]/size_vram",
        ),
        load=Route("/api/generate", json={"model": "hf.co/a/b:Q4_K_M"}, timeout_sec=300.0, error="/error"),
        unload=Route("/api/generate", json={"model": "hf.co/a/b:Q4_K_M", "keep_alive": 0}, error="/error"),
        evict=(HTTP,),
        preset="ollama",
    )


def test_ollama_without_a_model_has_no_load_and_unload_routes(tmp_path: Path) -> None:
    assert spec(tmp_path, 'preset = "ollama"\nvram_managed = true\nunit = "ollama.service"') == ConsumerSpec(
        "it",
        6144,
        unit="ollama.service",
        url="http://127.0.0.1:11434",
        health=HealthRoute("/api/ps", loaded="/models"),
        evict=(UNIT_STOP,),
        vram_managed=True,
        preset="ollama",
    )


def test_comfyui_unloads_by_flags(tmp_path: Path) -> None:
    assert spec(tmp_path, 'preset = "comfyui"\nunit = "comfyui.service"') == ConsumerSpec(
        "it",
        6144,
        unit="comfyui.service",
        url="http://127.0.0.1:8188",
        health=HealthRoute("/system_stats"),
        busy=BusyRoute("/prompt", ("/exec_info/queue_remaining",)),
        unload=Route("/free", json={"unload_models": True, "free_memory": True}),
        evict=(HTTP, UNIT_STOP),
        preset="comfyui",
    )


def test_llama_cpp_router_selects_its_model_in_the_list(tmp_path: Path) -> None:
    text = 'preset = "llama-cpp-router"\nurl = "http://127.0.0.1:9931"\nmodel = "ggml-org/gemma~3:Q8_0"'

    assert spec(tmp_path, text) == ConsumerSpec(
        "it",
        6144,
        url="http://127.0.0.1:9931",
        health=HealthRoute(
            "/models",
            loaded="/data/[id=ggml-org~1gemma~03:Q8_0]/status/value",
            loaded_equals="loaded",
            failed="/data/[id=ggml-org~1gemma~03:Q8_0]/status/failed",
            loading="/data/[id=ggml-org~1gemma~03:Q8_0]/status/value",
            loading_equals="loading",
            sleeping="/data/[id=ggml-org~1gemma~03:Q8_0]/status/value",
            sleeping_equals="sleeping",
        ),
        busy=BusyRoute("/slots?model=ggml-org%2Fgemma~3%3AQ8_0&autoload=false", ("/*/is_processing",)),
        load=Route("/models/load", json={"model": "ggml-org/gemma~3:Q8_0"}, success="/success", error="/error"),
        unload=Route("/models/unload", json={"model": "ggml-org/gemma~3:Q8_0"}, success="/success", error="/error"),
        evict=(HTTP,),
        preset="llama-cpp-router",
    )


def test_vllm_gets_the_sleep_level_in_the_query_and_awake_means_loaded(tmp_path: Path) -> None:
    text = 'preset = "vllm"\nurl = "http://127.0.0.1:8000"\nunit = "vllm.service"'

    assert spec(tmp_path, text) == ConsumerSpec(
        "it",
        6144,
        unit="vllm.service",
        url="http://127.0.0.1:8000",
        health=HealthRoute("/is_sleeping", loaded="/is_sleeping", loaded_equals=False),
        busy=BusyRoute("/metrics", metrics=("vllm:num_requests_running", "vllm:num_requests_waiting")),
        load=Route("/wake_up", timeout_sec=120.0),
        unload=Route("/sleep?level=1", timeout_sec=120.0),
        evict=(HTTP, UNIT_STOP),
        parks=True,
        preset="vllm",
    )


@pytest.mark.parametrize(
    ("name", "load_route"),
    [("a1111", Route("/sdapi/v1/reload-checkpoint", timeout_sec=120.0)), ("forge", None)],
)
def test_stable_diffusion_web_uis(name: str, load_route: Route | None, tmp_path: Path) -> None:
    assert spec(tmp_path, f'preset = "{name}"\nurl = "http://127.0.0.1:7860"') == ConsumerSpec(
        "it",
        6144,
        url="http://127.0.0.1:7860",
        health=HealthRoute("/sdapi/v1/memory"),
        busy=BusyRoute("/sdapi/v1/progress?skip_current_image=true", ("/state/job_count", "/state/job")),
        parks=load_route is not None,
        load=load_route,
        unload=Route("/sdapi/v1/unload-checkpoint", timeout_sec=120.0),
        evict=(HTTP,),
        preset=name,
    )


def test_own_keys_override_the_preset_and_tables_replace_its_tables(tmp_path: Path) -> None:
    text = """
        preset = "comfyui"
        url = "http://127.0.0.1:1"
        unload = { path = "/other" }
        health = { path = "/queue", timeout_sec = 1 }
    """

    one = spec(tmp_path, text)

    assert one.url == "http://127.0.0.1:1"
    assert one.unload == Route("/other")
    assert one.health == HealthRoute("/queue", timeout_sec=1.0)


def test_model_is_substituted_in_the_preset_only(tmp_path: Path) -> None:
    text = 'preset = "ollama"\nmodel = "m"\nunload = { path = "/u", json = { model = "{model}" } }'

    one = spec(tmp_path, text)

    assert one.unload == Route("/u", json={"model": "{model}"})
    assert one.load is not None
    assert one.load.json == {"model": "m"}


def test_model_is_escaped_for_its_position() -> None:
    one = preset("ollama")
    document = type(one.document)(
        "x",
        {
            "consumer": {
                "load": {"path": "/api/ps/{model}?m={model}", "json": {"path": ["{model}"]}},
                "health": {
                    "path": "/",
                    "loaded": "/[id={model}]",
                    "last_used": "/{model}",
                    "failed": "/[id={tagged_model}]/x",
                    "loaded_equals": "{model}",
                    "sleeping_path": "/{model}",
                },
            }
        },
        "",
    )

    keys = type(one)("x", one.about, document).consumer("a/b ~é?")

    assert keys["load"] == {"path": "/api/ps/a%2Fb%20~%C3%A9%3F?m=a%2Fb%20~%C3%A9%3F", "json": {"path": ["a/b ~é?"]}}
    assert keys["health"] == {
        "path": "/",
        "loaded": "/[id=a~1b ~0é?]",
        "last_used": "/a~1b ~0é?",
        "failed": "/[id=a~1b ~0é?:latest]/x",
        "loaded_equals": "a/b ~é?",
        "sleeping_path": "/a%2Fb%20~%C3%A9%3F",
    }


@pytest.mark.parametrize(
    ("model", "listed"),
    [
        ("llama3", "llama3:latest"),
        ("llama3:latest", "llama3:latest"),
        ("llama3:8b", "llama3:8b"),
        ("registry.ollama.ai/library/llama3", "llama3:latest"),
        ("library/llama3:8b", "llama3:8b"),
        ("registry.ollama.ai/mistral/small", "mistral~1small:latest"),
        ("hf.co/a/b", "hf.co~1a~1b:latest"),
        ("localhost:5000/library/llama3", "localhost:5000~1library~1llama3:latest"),
        ("{model}{tagged_model}", "{model}{tagged_model}:latest"),
    ],
)
def test_ollama_lists_a_model_without_a_tag_as_latest(model: str, listed: str, tmp_path: Path) -> None:
    one = spec(tmp_path, f'preset = "ollama"\nmodel = "{model}"')

    assert one.health is not None
    assert one.health.loaded == f"/models/[name={listed}]"
    assert one.load is not None
    assert one.load.json == {"model": model}


ROUTER = {"data": [{"id": "other", "status": {"value": "loaded"}}, {"id": "a/b:Q4", "status": {"value": "unloaded"}}]}
ROUTER_LOADED = {
    "data": [{"id": "other", "status": {"value": "unloaded"}}, {"id": "a/b:Q4", "status": {"value": "loaded"}}]
}


@pytest.mark.parametrize(
    ("name", "answer", "loaded"),
    [
        ("ollama", {"models": []}, False),
        ("ollama", {"models": [{"name": "a/b:Q4", "model": "a/b:Q4", "size_vram": 1}]}, True),
        ("llama-cpp-router", ROUTER, False),
        ("llama-cpp-router", ROUTER_LOADED, True),
        ("llama-cpp-router", {"data": []}, False),
        ("ollama", {"models": [{"name": "other:latest", "model": "other:latest", "size_vram": 1}]}, False),
        ("llama-swap", {"running": [{"model": "a/b:Q4", "state": "starting"}]}, False),
        ("llama-swap", {"running": [{"model": "a/b:Q4", "state": "ready"}]}, True),
        ("llama-swap", {"running": []}, False),
        ("tabbyapi", {"id": "a/b:Q4", "object": "model"}, True),
        ("tabbyapi", {"id": "other", "object": "model"}, False),
        ("koboldcpp", {"result": "koboldcpp/any"}, True),
        ("koboldcpp", {"result": "inactive"}, False),
        ("koboldcpp", {}, None),
        ("text-generation-webui", {"model_name": "a/b:Q4", "lora_names": []}, True),
        ("text-generation-webui", {"model_name": "None", "lora_names": []}, False),
        ("text-generation-webui", {"model_name": None, "lora_names": []}, False),
        ("localai", {"backends": ["llama-cpp"], "loaded_models": [{"id": "a/b:Q4"}]}, True),
        ("localai", {"backends": ["llama-cpp"], "loaded_models": [{"id": "other"}]}, False),
        ("localai", {"backends": ["llama-cpp"], "loaded_models": []}, False),
        ("lm-studio", {"models": [{"key": "a/b:Q4", "loaded_instances": []}]}, False),
        ("lm-studio", {"models": []}, False),
        ("vllm", {"is_sleeping": True}, False),
        ("vllm", {"is_sleeping": False}, True),
        ("comfyui", {"system": {}, "devices": []}, None),
    ],
)
def test_response_of_a_server_is_interpreted(name: str, answer: Any, loaded: bool | None, tmp_path: Path) -> None:
    model = 'model = "a/b:Q4"' if preset(name).about.model != "none" else ""
    route = spec(tmp_path, f'preset = "{name}"\nurl = "http://h"\n{model}').health
    assert route is not None

    found = parse_health(route, Answer(200, body=json.dumps(answer).encode()), now_usec=0)

    assert (found.reachable, found.loaded) == (True, loaded)
