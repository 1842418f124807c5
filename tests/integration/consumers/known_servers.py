"""A fake of every server that has a preset, from one table: what each answers, by the facts its preset's sources state.

A fact is a request and what comes of it: some make the server load or unload its model, others are only answered. What
is asked otherwise (a wrong method, path, body or key) is answered as such servers do: 404, 405, 422, 401.
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
"""A slash, a blank and a colon: ids have all of them."""

PATH_MODEL = "org%2Fa%20model:Q4"
QUERY_MODEL = "org/a%20model:Q4"
KEY = "s3cret"

Answer = tuple[int, Any]
"""Status and body: JSON, or bytes as they are."""


@dataclass(slots=True)
class Server:
    """One server while it runs; a test changes any field at any time.

    Attributes:
        facts: what it is like.
        loaded: its model is in VRAM.
        dead: unloaded, and answering 503 to its clients until its load route is called (Chatterbox).
        jobs: what it works on.
        lies: it answers an unload well and frees nothing.
        refuses: what it answers to an unload instead of doing it.
        bad_answer: what it answers to an unload that it does.
        free_sec: how long after the answer the memory is free.
        held: called with whether it holds its model, whenever that changes.
        done: "load" and "unload", in the order in which they were done.
        odd: requests that it did not know.
    """

    facts: Facts
    loaded: bool = True
    dead: bool = False
    jobs: int = 0
    lies: bool = False
    refuses: Answer | None = None
    bad_answer: Answer | None = None
    free_sec: float = 0.0
    held: Callable[[bool], None] = lambda _: None
    done: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    _later: set[asyncio.Task[None]] = field(default_factory=set)

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request."""
        if self.facts.key and request.headers.get(self.facts.key[0]) != self.facts.key[1]:
            return web.json_response({"detail": "not authenticated"}, status=401)
        body = json.loads(await request.read() or b"null")
        path = str(URL(request.raw_path))  # what may be written in more than one way, such as a colon, in one
        what = (request.method, path, body)
        if what in self.facts.loads:
            return _response(self._load())
        if what in self.facts.unloads:
            return _response(await self._unload())
        read = self.facts.reads.get(path) if request.method == "GET" else None
        if read is not None:
            return _response(read(self))
        if path == "/speech" and self.dead:
            return web.json_response({"detail": "model is not loaded"}, status=503)
        self.odd.append(f"{request.method} {path} {body}")
        return web.json_response({"detail": "not found"}, status=404)

    def _load(self) -> Answer:
        self.done.append("load")
        self.loaded, self.dead = True, False
        self.held(True)
        return self.facts.says_load

    async def _unload(self) -> Answer:
        if self.refuses is not None:
            return self.refuses
        self.done.append("unload")
        self.loaded, self.dead = False, True
        if self.lies:
            return self.facts.says_unload
        if self.facts.is_async and self.free_sec:
            task = asyncio.create_task(self._free_later())
            self._later.add(task)
            task.add_done_callback(self._later.discard)
        else:
            self.held(False)
        return self.bad_answer or self.facts.says_unload

    async def _free_later(self) -> None:
        await asyncio.sleep(self.free_sec)
        self.held(False)


@dataclass(frozen=True)
class Facts:
    """What a server is like.

    Attributes:
        loads, unloads: requests that make it do so: method, path with query, body.
        says_load, says_unload: what it answers to these.
        reads: path with query -> what it answers to a GET there.
        key: header and value that it asks for; () = none.
        is_async: its answer to an unload comes before the memory is free.
        says_loaded: whether its health tells whether it is loaded.
    """

    loads: tuple[tuple[str, str, Any], ...] = ()
    unloads: tuple[tuple[str, str, Any], ...] = ()
    says_load: Answer = (200, {})
    says_unload: Answer = (200, {})
    reads: dict[str, Callable[[Server], Answer]] = field(default_factory=dict)
    key: tuple[str, str] | tuple[()] = ()
    is_async: bool = False
    says_loaded: bool = False

    def __hash__(self) -> int:
        return id(self)


@contextlib.asynccontextmanager
async def serving(server: Server) -> AsyncIterator[str]:
    """Let it run: its URL."""
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


def _router(server: Server) -> Answer:
    entries = [{"id": "other", "status": {"value": "loaded"}}]
    value = "loaded" if server.loaded else "unloaded"
    return 200, {"data": [*entries, {"id": MODEL, "status": {"value": value}}]}


FACTS: dict[str, Facts] = {
    "a1111": Facts((("POST", "/sdapi/v1/reload-checkpoint", None),), (_SD_UNLOAD,), reads=_WEBUI),
    "forge": Facts((), (_SD_UNLOAD,), reads=_WEBUI),
    "comfyui": Facts(
        unloads=(("POST", "/free", {"unload_models": True, "free_memory": True}),),
        says_unload=(200, b""),
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
        {"/models": _router},
        is_async=True,
        says_loaded=True,
    ),
    "llama-server": Facts(
        reads={
            "/health": _ok(),
            "/slots": lambda server: (200, [{"id": at, "is_processing": at < server.jobs} for at in range(4)]),
        }
    ),
    "ollama": Facts(
        (("POST", _GENERATE, {"model": MODEL}),),
        (("POST", _GENERATE, {"model": MODEL, "keep_alive": 0}),),
        (200, {"model": MODEL, "done": True, "done_reason": "load"}),
        (200, {"model": MODEL, "response": "", "done": True, "done_reason": "unload"}),
        {"/api/ps": lambda server: (200, {"models": [{"name": MODEL, "size_vram": 1}] if server.loaded else []})},
        is_async=True,
        says_loaded=True,
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
        says_loaded=True,
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
        says_loaded=True,
    ),
    "localai": Facts(
        (("POST", "/backend/load", {"model": MODEL}),),
        (("POST", "/backend/shutdown", {"model": MODEL}),),
        (200, {"loaded": [MODEL], "message": ""}),
        (200, {"message": "backend shut down"}),
        {
            "/readyz": lambda _: (200, b""),
            f"/backend/monitor?model={QUERY_MODEL}": lambda server: (200, {"state": 1 if server.jobs else 2}),
        },
        key=_bearer(),
    ),
    "tabbyapi": Facts(
        (("POST", "/v1/model/load", {"model_name": MODEL}),),
        (("POST", "/v1/model/unload", None),),
        (200, b'data: {"status": "processing"}\n\ndata: {"status": "finished"}\n\n'),
        (200, None),
        {"/health": _ok({"status": "healthy", "issues": []})},
        key=("x-admin-key", KEY),
    ),
    "text-generation-webui": Facts(
        (("POST", "/v1/internal/model/load", {"model_name": MODEL, "args": {}, "settings": {}}),),
        (("POST", "/v1/internal/model/unload", None),),
        (200, "OK"),
        reads={"/v1/internal/health": _ok()},
        key=_bearer(),
    ),
    "koboldcpp": Facts(
        (("POST", "/api/admin/reload_config", {"filename": MODEL}),),
        (("POST", "/api/admin/reload_config", {"filename": "unload_model"}),),
        (200, {"success": True}),
        (200, {"success": True}),
        {
            "/api/v1/model": _ok({"result": "koboldcpp/x"}),
            "/api/extra/perf": lambda server: (200, {"uptime": 1, "idle": 0 if server.jobs else 1, "queue": 0}),
        },
        key=_bearer(),
        is_async=True,
    ),
    "lemonade": Facts(
        (("POST", "/v1/load", {"model_name": MODEL}),),
        (("POST", "/v1/unload", {"model_name": MODEL}),),
        (200, {"status": "success"}),
        (200, {"status": "success"}),
        {"/v1/health": _listed("all_models_loaded", {"last_use": 1_770_000_000})},
        key=_bearer(),
        says_loaded=True,
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
        says_loaded=True,
    ),
    "llama-swap": Facts(
        unloads=(("POST", f"/api/models/unload/{PATH_MODEL}", None),),
        says_unload=(200, b"OK"),
        reads={"/running": _listed("running", {"state": "ready"})},
        key=_bearer(),
        says_loaded=True,
    ),
    "chatterbox": Facts(
        (("POST", "/restart_server", None),),
        (("POST", "/api/unload", None),),
        reads={"/api/model-info": lambda server: (200, {"loaded": server.loaded})},
        says_loaded=True,
    ),
    "parakeet": Facts(
        (("POST", "/v1/models/load", None),), (("POST", "/v1/models/unload", None),), reads={"/v1/models": _ok()}
    ),
    "invokeai": Facts(unloads=(("POST", "/api/v2/models/empty_model_cache", None),)),
    "xinference": Facts(
        (("POST", "/v1/models", {"model_name": MODEL, "model_uid": MODEL}),),
        (("DELETE", f"/v1/models/{PATH_MODEL}", None),),
        (200, {"model_uid": MODEL}),
        reads={"/v1/models": _listed("data")},
        key=_bearer(),
        says_loaded=True,
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
"""By name of the preset."""
