"""The gateway compared with a direct connection and with Debian's nginx, in one run: time, processor and memory.

``python -m benchmarks.gateway`` prints one table. It needs ``nginx`` (package nginx-light); without it, its column is
empty. The exit status is 1 if a goal is missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.environment import RunningDaemon, announcement_folder, running_daemon, unwrap, workspace
from benchmarks.gateway_load import chunk_times, first_byte_times, flood
from benchmarks.idle import resident_mib
from benchmarks.table import Row, exit_status, median, percentile, show
from gpumand.testing.consumer_process import consumer_process

ROUNDS, REQUESTS = 15, 200
FLOOD_CONNECTIONS, FLOOD_SEC, FLOODS = 16, 2.0, 5
IDLE_SEC = 30.0
START_SEC = 30.0

FIRST_BYTE_MS, CHUNK_MS, CPU_MS, RATE, IDLE_MB, IDLE_PERCENT = 1.0, 0.5, 0.5, 1500, 45.0, 0.1

_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  upstream service {{ server 127.0.0.1:{service}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a client can connect to: the service itself, or a proxy in front of it, with its processes."""

    port: int
    pids: tuple[int, ...] = ()


async def measure(folder: Path) -> list[Row]:
    """All rows."""
    async with contextlib.AsyncExitStack() as stack:
        service = await stack.enter_async_context(_service())
        where = (announcement_folder(folder), "--loaded-at-start")
        await stack.enter_async_context(consumer_process("llm", 1024, *where))
        table = f'[consumers.llm]\nvram_resident_mib = 1024\nurl = "http://127.0.0.1:{service.port}"\n'
        daemon = await stack.enter_async_context(running_daemon(folder, table))
        gateway, entrance = await stack.enter_async_context(_gateway(folder, daemon))
        nginx = await stack.enter_async_context(_nginx(folder, service.port))
        places = (service, nginx, gateway)
        rows = [await _added("time to first byte", places, partial(_first_bytes, REQUESTS), FIRST_BYTE_MS)]
        rows.append(await _added("time per streamed chunk", places, _chunks, CHUNK_MS))
        rows += await _floods(nginx, gateway, daemon)
        by_model = (service, nginx, entrance)
        rows.append(
            await _added("time to first byte, one address", by_model, partial(_first_bytes, REQUESTS), FIRST_BYTE_MS)
        )
        rows += await _entrance_floods(entrance)
        return rows + await _idle(gateway)


# -- processes ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _process(*command: str, stderr: int | None = None) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=stderr)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


@contextlib.asynccontextmanager
async def _service() -> AsyncIterator[Place]:
    async with _process(sys.executable, "-m", "benchmarks.gateway_load", "serve") as process:
        assert process.stdout is not None
        yield Place(int(await process.stdout.readline()))


@contextlib.asynccontextmanager
async def _gateway(folder: Path, daemon: RunningDaemon) -> AsyncIterator[tuple[Place, Place]]:
    """The gateway: the listener of the service, and the address for all models, which reads the body of a request."""
    port, own, file = _free_port(), _free_port(), folder / "gateway.toml"
    state = folder / "gateway-state"
    state.mkdir()
    text = (
        f'[gateway]\nlisten = "127.0.0.1:{own}"\nstate_dir = "{state}"\n[gateway.models]\nm = "llm"\ndiscover = false\n'
    )
    text += f'[gateway.listeners.llm]\nlisten = "127.0.0.1:{port}"\n'
    file.write_text(text, encoding="utf-8")
    command = ("-m", "benchmarks.gateway_process", str(file), daemon.address)
    with (folder / "gateway.log").open("wb") as log:
        # An installed gateway finds its bytecode, and does not spend memory on compiling: the first run compiles.
        async with _process(sys.executable, *command, stderr=log.fileno()):
            await _until_open(port)
        async with _process(sys.executable, *command, stderr=log.fileno()) as process:
            await _until_open(port)
            yield Place(port, (process.pid,)), Place(own, (process.pid,))


@contextlib.asynccontextmanager
async def _nginx(folder: Path, service: int) -> AsyncIterator[Place | None]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        yield None
        return
    port, file = _free_port(), folder / "nginx.conf"
    file.write_text(_NGINX.format(folder=folder, service=service, port=port), encoding="utf-8")
    async with _process(program, "-c", str(file), "-p", str(folder), "-e", str(folder / "nginx-error.log")) as process:
        await _until_open(port)
        yield Place(port, (process.pid, *_children(process.pid)))


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _until_open(port: int) -> None:
    async with asyncio.timeout(START_SEC):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)


def cpu_sec(pids: Sequence[int]) -> float:
    """Processor time of processes, in seconds, to the nanosecond."""
    files = [file for pid in pids for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


# -- measurements ------------------------------------------------------------------------------------------------------


def _first_bytes(requests: int, port: int) -> list[float]:
    return first_byte_times(port, requests)


def _chunks(port: int) -> list[float]:
    return chunk_times(port)


async def _added(what: str, places: Sequence[Place | None], measured: object, goal_ms: float) -> Row:
    """A row with the median time that a proxy adds to that of a direct connection."""
    assert callable(measured)
    rounds: list[list[float]] = []
    for number in range(ROUNDS + 1):
        times = [
            percentile(await asyncio.to_thread(measured, one.port), 50) * 1e3 if one is not None else float("nan")
            for one in places
        ]
        if number:  # the first round loads code and opens connections
            rounds.append(times)
    direct, _, ours = (median([one[index] for one in rounds]) for index in range(3))
    added = median([one[2] - one[0] for one in rounds])
    reference, ratio = f"direct: {direct:.2f} ms", None
    if places[1] is not None:
        by_nginx = median([one[1] - one[0] for one in rounds])
        reference += f"; nginx adds {by_nginx:.2f} ms"
        ratio = added / by_nginx if by_nginx > 0 else None
    text = f"{added:.2f} ms (in all {ours:.2f} ms)"
    return Row(f"added {what}, p50", text, reference, ratio, f"≤ {goal_ms:g} ms", added <= goal_ms)


async def _flood(place: Place) -> tuple[int, float, float]:
    """Answered requests, processor time of the proxy, and processor time per request."""
    before = cpu_sec(place.pids)
    command = ("benchmarks.gateway_load", "flood", str(place.port), str(FLOOD_CONNECTIONS), str(FLOOD_SEC))
    async with _process(sys.executable, "-m", *command) as process:
        assert process.stdout is not None
        answered = int(await process.stdout.readline())
    used = cpu_sec(place.pids) - before
    return answered, used, used / answered


async def _floods(nginx: Place | None, gateway: Place, daemon: RunningDaemon) -> list[Row]:
    await asyncio.to_thread(flood, gateway.port, FLOOD_CONNECTIONS, 0.5)
    ours, theirs, daemon_cpu = [], [], []
    for _ in range(FLOODS):
        before = cpu_sec([daemon.pid])
        ours.append(await _flood(gateway))
        daemon_cpu.append(cpu_sec([daemon.pid]) - before)
        (status,) = await daemon.client.call("GetStatus")
        leases = unwrap(status)["leases"]
        if [one["consumer"] for one in leases] != ["llm"]:
            raise RuntimeError(f"no lease is in force during the requests: {leases}")
        if nginx is not None:
            theirs.append(await _flood(nginx))
    cost = median([one[2] for one in ours]) * 1e3
    rate = median([one[0] / one[1] for one in ours])
    arbiter = median([cpu / one[0] for cpu, one in zip(daemon_cpu, ours, strict=True)]) * 1e3
    reference, ratio, theirs_rate, theirs_clock = "", None, "", ""
    if theirs:
        nginx_cost = median([one[2] for one in theirs]) * 1e3
        reference, ratio = f"nginx: {nginx_cost:.3f} ms", cost / nginx_cost
        theirs_rate = f"nginx: {median([one[0] / one[1] for one in theirs]):,.0f}/s"
        theirs_clock = f"nginx: {_answered_per_sec(theirs):,.0f}/s"
    return [
        Row("processor per request", f"{cost:.3f} ms", reference, ratio, f"≤ {CPU_MS:g} ms", cost <= CPU_MS),
        Row("requests per second of one core", f"{rate:,.0f}/s", theirs_rate, None, f"≥ {RATE:,}/s", rate >= RATE),
        Row("requests per second by the wall clock", f"{_answered_per_sec(ours):,.0f}/s", theirs_clock),
        Row("processor of gpumand per request, leases in force", f"{arbiter:.4f} ms"),
    ]


def _answered_per_sec(floods: Sequence[tuple[int, float, float]]) -> float:
    """Requests in a second of the wall clock, in which the client and the service use the processor too."""
    return median([one[0] for one in floods]) / FLOOD_SEC


async def _entrance_floods(entrance: Place) -> list[Row]:
    """What a request costs whose consumer is found by the model in its body."""
    await asyncio.to_thread(flood, entrance.port, FLOOD_CONNECTIONS, 0.5)
    ours = [await _flood(entrance) for _ in range(FLOODS)]
    cost = median([one[2] for one in ours]) * 1e3
    return [
        Row("processor per request, one address", f"{cost:.3f} ms", "", None, f"≤ {CPU_MS:g} ms", cost <= CPU_MS),
        Row("requests per second by the wall clock, one address", f"{_answered_per_sec(ours):,.0f}/s"),
    ]


async def _idle(gateway: Place) -> list[Row]:
    await asyncio.sleep(10)  # the lease lingers and is released
    before = cpu_sec(gateway.pids)
    await asyncio.sleep(IDLE_SEC)
    percent = (cpu_sec(gateway.pids) - before) / IDLE_SEC * 100
    megabytes = resident_mib(gateway.pids[0]) * 1.048576
    return [
        Row("idle: memory (RSS)", f"{megabytes:.1f} MB", "", None, f"≤ {IDLE_MB:g} MB", megabytes <= IDLE_MB),
        Row("idle: processor", f"{percent:.3f} %", "", None, f"< {IDLE_PERCENT:g} %", percent < IDLE_PERCENT),
    ]


def main() -> int:
    """Measure, print the table, and return the exit status."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with workspace() as folder:
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
        rows = asyncio.run(measure(folder))
    show(rows)
    return exit_status(rows)


if __name__ == "__main__":
    sys.exit(main())
