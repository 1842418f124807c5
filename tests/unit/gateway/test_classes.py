"""Every preset says which requests count as use."""

from __future__ import annotations

import pytest

from gpumand.config.presets import preset, preset_names
from gpumand.config.routes_schema import RoutesTable
from gpumand.gateway.config import ListenerSettings
from gpumand.gateway.router import service_of
from gpumand.gateway.routes.classes import RouteClass, preset_routes, rules_of

WORK, JOB, PAGE, LOOK, NEVER = (
    RouteClass.WORK,
    RouteClass.JOB,
    RouteClass.PAGE,
    RouteClass.LOOK,
    RouteClass.NEVER,
)


def classify(name: str, request: str, *, html: bool = False) -> RouteClass:
    method, _, path = request.partition(" ")
    return rules_of(preset_routes(name)).classify(method, path, accepts_html=html)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_has_route_classes(name: str) -> None:
    table = preset(name).routes

    assert table.look
    assert table.work or table.job
    assert table.page or table.other_get == "look" or not any(rule.endswith(" /") for rule in table.page)


@pytest.mark.parametrize("name", preset_names())
def test_requests_that_gpumand_itself_sends_are_looks_or_refused(name: str) -> None:
    consumer = preset(name).document.table["consumer"]
    for check in ("health", "busy"):
        path = consumer.get(check, {}).get("path", "")
        if path:
            assert classify(name, f"GET {path.partition('?')[0]}") is LOOK, path
    for route in ("load", "unload"):
        found = consumer.get(route)
        if found is not None and name != "ollama":  # its route is that of generations; see is_unload
            path = found["path"].partition("?")[0].replace("{model}", "m")
            assert classify(name, f"{found.get('method', 'POST')} {path}") is NEVER, path


@pytest.mark.parametrize("name", [one for one in preset_names() if preset(one).routes.job])
def test_preset_with_jobs_has_a_busy_check_that_ends_their_leases(name: str) -> None:
    busy = preset(name).document.table["consumer"].get("busy", {})
    assert busy.get("pointers") or busy.get("metrics"), "a job would end with its lease's last request"


def test_presets_with_jobs() -> None:
    assert {one for one in preset_names() if preset(one).routes.job} >= {"comfyui", "invokeai", "a1111", "forge"}


@pytest.mark.parametrize("name", preset_names())
def test_model_lists_of_a_preset_are_looks(name: str) -> None:
    for one in preset(name).about.models:
        assert classify(name, f"GET {one.path}") is LOOK, one.path


@pytest.mark.parametrize("name", preset_names())
def test_remembered_routes_are_looks(name: str) -> None:
    for rule in preset(name).routes.remember:
        assert classify(name, rule) is LOOK, rule


CASES = [
    ("ollama", "POST /api/chat", WORK),
    ("ollama", "POST /v1/chat/completions", WORK),
    ("ollama", "POST /api/show", LOOK),
    ("ollama", "HEAD /", LOOK),
    ("ollama", "GET /api/tags", LOOK),
    ("ollama", "GET /api/tags/", LOOK),
    ("ollama", "POST /api/pull", NEVER),
    ("ollama", "DELETE /api/delete", NEVER),
    ("ollama", "DELETE /api/delete/", NEVER),
    ("ollama", "HEAD /api/blobs/sha256:1", NEVER),
    ("comfyui", "POST /prompt", JOB),
    ("comfyui", "POST /api/prompt", JOB),
    ("comfyui", "GET /prompt", LOOK),
    ("comfyui", "GET /view", LOOK),
    ("comfyui", "GET /assets/index.js", LOOK),
    ("comfyui", "WS /ws", LOOK),
    ("comfyui", "POST /free", NEVER),
    ("comfyui", "POST /upload/image", LOOK),
    ("comfyui", "OPTIONS /prompt", LOOK),
    ("llama-server", "POST /v1/chat/completions", WORK),
    ("llama-server", "POST /completion", WORK),
    ("llama-server", "GET /health", LOOK),
    ("llama-server", "POST /slots/0", NEVER),
    ("vllm", "POST /v1/completions", WORK),
    ("vllm", "POST /sleep", NEVER),
    ("vllm", "GET /metrics", LOOK),
    ("a1111", "POST /sdapi/v1/txt2img", WORK),
    ("a1111", "GET /sdapi/v1/progress", LOOK),
    ("a1111", "POST /internal/progress", LOOK),
    ("immich-machine-learning", "GET /ping", LOOK),
    ("immich-machine-learning", "POST /predict", WORK),
    ("invokeai", "POST /api/v1/queue/default/enqueue_batch", JOB),
    ("invokeai", "GET /api/v1/queue/default/status", LOOK),
    ("llama-swap", "GET /unload", NEVER),
    ("whisper-cpp", "POST /inference", WORK),
    ("", "GET /anything", WORK),
    ("", "POST /anything", WORK),
    ("", "WS /anything", LOOK),
]


@pytest.mark.parametrize(("name", "request_line", "wanted"), CASES)
def test_route_has_the_class_that_its_server_needs(name: str, request_line: str, wanted: RouteClass) -> None:
    assert classify(name, request_line) is wanted


def test_pages_are_for_browsers_only() -> None:
    assert classify("comfyui", "GET /", html=True) is PAGE
    assert classify("comfyui", "GET /", html=False) is LOOK
    assert classify("", "GET /", html=True) is PAGE
    assert classify("ollama", "GET /", html=True) is LOOK


def test_websocket_of_a_route_that_may_not_be_read_may_not_be_opened() -> None:
    table = RoutesTable(never=("GET /admin*",), websocket="work")

    assert rules_of(table).classify("WS", "/admin/log") is NEVER
    assert rules_of(table).classify("WS", "/other") is WORK


def test_configuration_permits_routes_of_class_never() -> None:
    rules = rules_of(preset_routes("ollama"), allow=("POST /api/pull",))

    assert rules.classify("POST", "/api/pull") is LOOK
    assert rules.classify("POST", "/api/push") is NEVER


@pytest.mark.parametrize("name", preset_names())
def test_presets_with_routes_of_class_job_have_a_busy_check_by_which_the_end_of_the_work_is_found(name: str) -> None:
    service = service_of(ListenerSettings(name="x", consumer="x"), name)
    jobs = [one for kind, rules in service.rules.by_class if kind is RouteClass.JOB for one in rules]

    # Connections of clients say nothing here: the gateway's own would count.
    assert not jobs or (
        service.busy is not None and service.busy.path and (service.busy.pointers or service.busy.metrics)
    )


@pytest.mark.parametrize("name", preset_names())
def test_routes_that_start_a_stopped_server_are_looks(name: str) -> None:
    for rule in preset(name).routes.starts:
        assert classify(name, rule.replace("*", "x")) is LOOK, rule
