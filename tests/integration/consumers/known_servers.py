"""Fakes of all servers that have a preset; one table contains the documented requests and answers of each.

Some requests make the server load or unload its model, others only return a value. A request with a wrong method, path,
body or key gets the usual error status: 404, 405, 422 or 401.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from yarl import URL

from tests.integration.consumers.servers import web_server

MODEL = "org/a model:Q4"
"""A model id with a slash, a blank and a colon, which occur in real ids."""

PATH_MODEL = "org%2Fa%20model:Q4"
QUERY_MODEL = "org/a%20model:Q4"
KEY = "s3cret"

Answer = tuple[int, Any]
"""Status and body: a JSON value, or raw bytes."""


@dataclass(slots=True)
class Server:
    """One running server; a test may change any field at any time.

    Attributes:
        facts: the documented requests and answers.
        loaded: whether the model is in VRAM.
        dead: unloaded, and answering clients with 503 until the load route is called (Chatterbox).
        state: other state of the model, as the health route shows it; None for loaded or unloaded.
        jobs: number of running jobs.
        lies: the server answers an unload with success but frees nothing.
        refuses: answer to an unload request that is not carried out; None to carry it out.
        bad_answer: answer to an unload request that is carried out nevertheless; None for the usual one.
        free_sec: seconds from the answer until the memory is free.
        held: called with True or False whenever the server takes or frees the memory of its model.
        done: "load" and "unload", in the order in which they were carried out.
        unknown_requests: requests that the server did not know.
    """

    facts: Facts
    loaded: bool = True
    dead: bool = False
    state: Any = None
    jobs: int = 0
    lies: bool = False
    refuses: Answer | None = None
    bad_answer: Answer | None = None
    free_sec: float = 0.0
    held: Callable[[bool], None] = lambda _: None
    done: list[str] = field(default_factory=list)
    unknown_requests: list[str] = field(default_factory=list)
    _later: set[asyncio.Task[None]] = field(default_factory=set)

    async def handle(self, request: web.Request) -> web.Response:
        """Handle one request."""
        if self.facts.key and request.headers.get(self.facts.key[0]) != self.facts.key[1]:
            return web.json_response({"detail": "not authenticated"}, status=401)
        body = json.loads(await request.read() or b"null")
        path = str(URL(request.raw_path))  # normalises characters that may be escaped or not, such as a colon
        key = (request.method, path, body)
        if key in self.facts.loads:
            return _response(self._load())
        if key in self.facts.unloads:
            return _response(await self._unload())
        read = self.facts.reads.get(path) if request.method == "GET" else None
        if read is not None:
            return _response(read(self))
        if path == "/speech" and self.dead:
            return web.json_response({"detail": "model is not loaded"}, status=503)
        self.unknown_requests.append(f"{request.method} {path} {body}")
        return web.json_response({"detail": "not found"}, status=404)

    def _load(self) -> Answer:
        self.done.append("load")
        self.loaded, self.dead = True, False
        self.held(True)
        return self.facts.load_answer

    async def _unload(self) -> Answer:
        if self.refuses is not None:
            return self.refuses
        self.done.append("unload")
        self.loaded, self.dead = False, True
        if self.lies:
            return self.facts.unload_answer
        if self.facts.is_async and self.free_sec:
            task = asyncio.create_task(self._free_later())
            self._later.add(task)
            task.add_done_callback(self._later.discard)
        else:
            self.held(False)
        return self.bad_answer or self.facts.unload_answer

    async def _free_later(self) -> None:
        await asyncio.sleep(self.free_sec)
        self.held(False)


@dataclass(frozen=True)
class Facts:
    """The documented requests and answers of a server.

    Attributes:
        loads, unloads: requests that load or unload the model: method, path with query, body.
        load_answer, unload_answer: the answers to these requests.
        reads: path with query -> the answer to a GET request.
        key: required header and its value; () = none.
        is_async: the answer to an unload comes before the memory is free.
        reports_loaded: whether the health route reports whether the model is loaded.
    """

    loads: tuple[tuple[str, str, Any], ...] = ()
    unloads: tuple[tuple[str, str, Any], ...] = ()
    load_answer: Answer = (200, {})
    unload_answer: Answer = (200, {})
    reads: dict[str, Callable[[Server], Answer]] = field(default_factory=dict)
    key: tuple[str, str] | tuple[()] = ()
    is_async: bool = False
    reports_loaded: bool = False

    def __hash__(self) -> int:
        return id(self)


@contextlib.asynccontextmanager
async def serving(server: Server) -> AsyncIterator[str]:
    """Run the server; yields its URL."""
    async with web_server(server.handle) as url:
        yield url


def _response(answer: Answer) -> web.Response:
    status, body = answer
    if isinstance(body, bytes):
        return web.Response(status=status, body=body)
    return web.json_response(body, status=status)


def _ok(body: Any = None) -> Callable[[Server], Answer]:
    return lambda _: (200, {"status": "ok"} if body is None else body)


def _progress(server: Server) -> Answer:
    state = {"job": "txt2img" if server.jobs else "", "job_count": server.jobs, "skipped": False}
    return 200, {"progress": 0.5 if server.jobs else 0, "state": state, "current_image": None}


def _metrics(prefix: str, running: str, waiting: str) -> Callable[[Server], Answer]:
    def answer(server: Server) -> Answer:
        lines = [f"# TYPE {prefix}:{running} gauge"]
        lines += [f'{prefix}:{running}{{engine="{number}"}} {server.jobs / 2}' for number in (0, 1)]
        lines += [f"{prefix}:{waiting} 0.0", f"{prefix}:tokens_total 1.5e+06", ""]
        return 200, "\n".join(lines).encode()

    return answer


def _bearer() -> tuple[str, str]:
    return "Authorization", f"Bearer {KEY}"


_WEBUI = {
    "/sdapi/v1/memory": _ok({"cuda": {"system": {"free": 1, "used": 2, "total": 3}}}),
    "/sdapi/v1/progress?skip_current_image=true": _progress,
}
_SD_UNLOAD = ("POST", "/sdapi/v1/unload-checkpoint", None)
_GENERATE = "/api/generate"
_LOADED = {"id": MODEL, "name": MODEL, "key": MODEL, "model": MODEL, "model_name": MODEL}


def _listed(key: str, more: dict[str, Any] | None = None) -> Callable[[Server], Answer]:
    return lambda server: (
        200,
        {key: [{"id": "other"}, _LOADED | (more or {})] if server.loaded else [{"id": "other"}]},
    )


def _ollama_models(server: Server) -> Answer:
    names = ["other:latest", *[MODEL] * server.loaded]
    sizes = {"size": 12 * 2**30, "size_vram": (4 if server.state == "partly on the CPU" else 12) * 2**30}
    return 200, {"models": [{"name": name, "model": name} | sizes for name in names]}


def _slots(server: Server) -> Answer:
    return 200, [{"id": at, "is_processing": at < server.jobs} for at in range(4)]


def _router(server: Server) -> Answer:
    entries = [{"id": "other", "status": {"value": "loaded"}}]
    status = server.state or {"value": "loaded" if server.loaded else "unloaded"}
    return 200, {"data": [*entries, {"id": MODEL, "status": {"args": ["llama-server"], **status}}]}


def _tabby_model(server: Server) -> Answer:
    if not server.loaded:
        return 503, {"detail": "No models are currently loaded."}
    return 200, {"id": MODEL, "object": "model"}


TABBY_PROGRESS = b'data: {"model_type":"model","module":1,"modules":2,"status":"processing"}\r\n\r\n'
TABBY_FINISHED = b'data: {"model_type":"model","module":2,"modules":2,"status":"finished"}\r\n\r\n'
TABBY_FAILED = b'data: {"error":{"message":"CUDA out of memory. Tried to allocate 2.00 GiB","trace":null}}\r\n\r\n'


FACTS: dict[str, Facts] = {
    "a1111": Facts((("POST", "/sdapi/v1/reload-checkpoint", None),), (_SD_UNLOAD,), reads=_WEBUI),
    "forge": Facts((), (_SD_UNLOAD,), reads=_WEBUI),
    "comfyui": Facts(
        unloads=(("POST", "/free", {"unload_models": True, "free_memory": True}),),
        unload_answer=(200, b""),
        reads={
            "/system_stats": _ok({"system": {}, "devices": []}),
            "/prompt": lambda server: (200, {"exec_info": {"queue_remaining": server.jobs}}),
        },
        is_async=True,
    ),
    "llama-cpp-router": Facts(
        (("POST", "/models/load", {"model": MODEL}),),
        (("POST", "/models/unload", {"model": MODEL}),),
        (200, {"success": True}),
        (200, {"success": True}),
        {"/models": _router, f"/slots?model={QUERY_MODEL}&autoload=false": _slots},
        is_async=True,
        reports_loaded=True,
    ),
    "llama-server": Facts(
        reads={
            "/health": _ok(),
            "/props": lambda server: (200, {"is_sleeping": server.state == "sleeping", "role": "model"}),
            "/slots": _slots,
        }
    ),
    "ollama": Facts(
        (("POST", _GENERATE, {"model": MODEL}),),
        (("POST", _GENERATE, {"model": MODEL, "keep_alive": 0}),),
        (200, {"model": MODEL, "done": True, "done_reason": "load"}),
        (200, {"model": MODEL, "response": "", "done": True, "done_reason": "unload"}),
        {"/api/ps": _ollama_models},
        is_async=True,
        reports_loaded=True,
    ),
    "vllm": Facts(
        (("POST", "/wake_up", None),),
        (("POST", "/sleep?level=1", None),),
        (200, b""),
        (200, b""),
        {
            "/is_sleeping": lambda server: (200, {"is_sleeping": not server.loaded}),
            "/metrics": _metrics("vllm", "num_requests_running", "num_requests_waiting"),
        },
        reports_loaded=True,
    ),
    "sglang": Facts(
        (("POST", "/resume_memory_occupation", {}),),
        (("POST", "/release_memory_occupation", {}),),
        (200, None),
        (200, None),
        {"/metrics": _metrics("sglang", "num_running_reqs", "num_queue_reqs")},
    ),
    "speaches": Facts(
        (("POST", f"/api/ps/{PATH_MODEL}", None),),
        (("DELETE", f"/api/ps/{PATH_MODEL}", None),),
        (201, {"message": "loaded"}),
        reads={"/api/ps": lambda server: (200, {"models": ["a/vad", *([MODEL] if server.loaded else [])]})},
        key=_bearer(),
        reports_loaded=True,
    ),
    "localai": Facts(
        (("POST", "/backend/load", {"model": MODEL}),),
        (("POST", "/backend/shutdown", {"model": MODEL}),),
        (200, {"loaded": [MODEL], "message": ""}),
        (200, {"message": "backend shut down"}),
        {
            "/system": lambda server: (
                200,
                {"backends": ["llama-cpp"], "loaded_models": [{"id": "other"}, *[{"id": MODEL}] * server.loaded]},
            ),
            f"/backend/monitor?model={QUERY_MODEL}": lambda server: (200, {"state": 1 if server.jobs else 2}),
        },
        key=_bearer(),
        reports_loaded=True,
    ),
    "tabbyapi": Facts(
        (("POST", "/v1/model/load", {"model_name": MODEL}),),
        (("POST", "/v1/model/unload", None),),
        (200, TABBY_PROGRESS + TABBY_FINISHED),
        (200, None),
        {"/v1/model": _tabby_model},
        key=_bearer(),
        reports_loaded=True,
    ),
    "text-generation-webui": Facts(
        (("POST", "/v1/internal/model/load", {"model_name": MODEL, "args": {}, "settings": {}}),),
        (("POST", "/v1/internal/model/unload", None),),
        (200, "OK"),
        reads={
            "/v1/internal/model/info": lambda server: (
                200,
                {"model_name": MODEL if server.loaded else "None", "lora_names": []},
            )
        },
        key=_bearer(),
        reports_loaded=True,
    ),
    "koboldcpp": Facts(
        (("POST", "/api/admin/reload_config", {"filename": MODEL}),),
        (("POST", "/api/admin/reload_config", {"filename": "unload_model"}),),
        (200, {"success": True}),
        (200, {"success": True}),
        {
            "/api/v1/model": lambda server: (200, {"result": "koboldcpp/x" if server.loaded else "inactive"}),
            "/api/extra/perf": lambda server: (200, {"uptime": 1, "idle": 0 if server.jobs else 1, "queue": 0}),
        },
        key=_bearer(),
        is_async=True,
        reports_loaded=True,
    ),
    "lemonade": Facts(
        (("POST", "/v1/load", {"model_name": MODEL}),),
        (("POST", "/v1/unload", {"model_name": MODEL}),),
        (200, {"status": "success"}),
        (200, {"status": "success"}),
        {"/v1/health": _listed("all_models_loaded", {"last_use": 1_770_000_000})},
        key=_bearer(),
        reports_loaded=True,
    ),
    "lm-studio": Facts(
        (("POST", "/api/v1/models/load", {"model": MODEL}),),
        (("POST", "/api/v1/models/unload", {"instance_id": MODEL}),),
        (200, {"instance_id": MODEL, "status": "loaded"}),
        (200, {"instance_id": MODEL}),
        {
            "/api/v1/models": lambda server: (
                200,
                {"models": [{"key": MODEL, "loaded_instances": [{"id": MODEL}] if server.loaded else []}]},
            )
        },
        is_async=True,
        reports_loaded=True,
    ),
    "llama-swap": Facts(
        unloads=(("POST", f"/api/models/unload/{PATH_MODEL}", None),),
        unload_answer=(200, b"OK"),
        reads={"/running": _listed("running", {"state": "ready"})},
        key=_bearer(),
        reports_loaded=True,
    ),
    "chatterbox": Facts(
        (("POST", "/restart_server", None),),
        (("POST", "/api/unload", None),),
        reads={"/api/model-info": lambda server: (200, {"loaded": server.loaded})},
        reports_loaded=True,
    ),
    "parakeet": Facts(
        (("POST", "/v1/models/load", None),), (("POST", "/v1/models/unload", None),), reads={"/v1/models": _ok()}
    ),
    "invokeai": Facts(
        unloads=(("POST", "/api/v2/models/empty_model_cache", None),),
        reads={
            "/api/v1/queue/default/status": lambda server: (
                200,
                {
                    "queue": {"queue_id": "default", "pending": 0, "in_progress": server.jobs, "completed": 7},
                    "processor": {"is_started": True, "is_processing": bool(server.jobs)},
                },
            )
        },
    ),
    "xinference": Facts(
        (("POST", "/v1/models", {"model_name": MODEL, "model_uid": MODEL}),),
        (("DELETE", f"/v1/models/{PATH_MODEL}", None),),
        (200, {"model_uid": MODEL}),
        reads={"/v1/models": _listed("data")},
        key=_bearer(),
        reports_loaded=True,
    ),
    "audio-cpp": Facts(unloads=(("POST", "/v1/tasks/unload_models", {"model_ids": [MODEL]}),)),
    "voicebox": Facts(unloads=(("POST", "/models/unload", None),)),
    "infinity": Facts(
        reads={
            "/health": _ok({"unix": 1}),
            "/models": lambda server: (
                200,
                {"data": [{"id": "e", "stats": {"queue_absolute": server.jobs, "results_pending": 0}}]},
            ),
        }
    ),
    "tei": Facts(reads={"/health": lambda _: (200, b"")}, key=_bearer()),
    "kokoro-fastapi": Facts(reads={"/health": _ok()}),
    "whisper-cpp": Facts(reads={"/health": _ok()}),
    "whisper-asr-webservice": Facts(),
    "immich-machine-learning": Facts(),
    "alltalk": Facts(),
}
"""Facts of each server by the name of its preset."""
