"""Jobs: requests that are answered before their work is done keep their lease until the service is idle.

A short form runs with all tests; ``make jobs`` lets the jobs work for a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gpumand.testing.vram_announcement import Announcement
from tests.integration.gateway.conftest import Front, front
from tests.integration.gateway.console import Board, board
from tests.integration.live import wait_until

IS_FULL = bool(os.environ.get("GPUMAND_FULL_LENGTH"))
JOB_SEC = 60.0 if IS_FULL else 3.0
"""How long the work of a job takes."""

COMFYUI = 'preset = "comfyui"'
BUSY = 'busy = { path = "/prompt", pointers = ["/exec_info/queue_remaining"] }'
NO_LINGER = "linger_sec = 0\n"
SHORT_LEASE = NO_LINGER + "lease_ttl_sec = 10\n"
HANDED_OVER = NO_LINGER + ("lease_ttl_sec = 20\n" if IS_FULL else "")
"""In the long form, a lease that is not renewed ends before the work does."""

pytestmark = pytest.mark.timeout(JOB_SEC + 180)


async def leases(made: Front) -> list[Any]:
    return list((await made.control.status())["leases"])


async def has_leases(made: Front, count: int) -> bool:
    return len(await leases(made)) == count


async def has_queue(made: Front) -> bool:
    return bool((await made.control.status())["queue"])


async def is_recorded(made: Front, count: int) -> bool:
    """Whether the list for the next gateway, which is written in the background, has this many jobs."""
    file = made.host.folder / "gateway-state" / "jobs.json"
    return file.exists() and len(json.loads(file.read_text())["jobs"]) == count


async def has_job(made: Front) -> bool:
    return made.service.jobs > 0


async def has_taken_over(made: Front) -> bool:
    return re.search("of the last process (is|are) held again", made.gateway.log) is not None


async def post_job(made: Front, path: str = "/prompt") -> int:
    async with made.session.post(made.url + path, json={"prompt": {}}) as answer:
        await answer.read()
        return answer.status


@contextlib.asynccontextmanager
async def model_in_memory(made: Front) -> AsyncIterator[None]:
    """The service has a model in memory until it gets the request that unloads it."""
    memory = Announcement(made.host.simulator, "fake")
    memory.set(14000)

    async def is_unloaded() -> bool:
        return "POST /unload" in made.service.paths()

    async def clear() -> None:
        await wait_until("the service is asked to unload", is_unloaded, within_sec=JOB_SEC + 120)
        memory.clear()

    clearing = asyncio.create_task(clear())
    try:
        yield
    finally:
        clearing.cancel()
        await asyncio.gather(clearing, return_exceptions=True)


async def block(made: Front) -> asyncio.Task[str]:
    """Ask for the room of the service, and wait until that request is queued."""

    async def acquire() -> str:
        lease, _ = await made.control.acquire(made.blocker, timeout_usec=("t", int(JOB_SEC + 90) * 1_000_000))
        return lease

    blocking = asyncio.create_task(acquire())
    await wait_until("the blocker waits", has_queue, made)
    return blocking


async def works_on(made: Front, blocking: asyncio.Task[str], seconds: float) -> None:
    """The service works for a while; nothing interrupts it."""
    until = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until:
        assert not blocking.done()
        assert "POST /unload" not in made.service.paths()
        await asyncio.sleep(0.2)


async def finish(made: Front, blocking: asyncio.Task[str]) -> None:
    """The work ends, and the other consumer gets the room."""
    made.service.jobs = 0
    async with asyncio.timeout(30):
        lease = await blocking
    assert "POST /unload" in made.service.paths()
    await made.control.release(lease)


async def test_job_keeps_its_lease_until_the_service_is_idle(tmp_path: Path) -> None:
    async with front(tmp_path, COMFYUI, NO_LINGER) as made:
        assert await post_job(made) == 200
        blocking = await block(made)

        await works_on(made, blocking, JOB_SEC)

        await finish(made, blocking)


async def test_job_that_the_service_refused_keeps_no_lease(tmp_path: Path) -> None:
    async with front(tmp_path, COMFYUI, NO_LINGER) as made:
        await post_job(made, "/api/prompt?fail=1")
        made.service.jobs = 0

        await wait_until("no lease is left", has_leases, made, 0)


# -- restarts of the gateway -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_next_gateway_holds_the_lease_of_a_job_again(tmp_path: Path, number: signal.Signals) -> None:
    """gpumand has no busy check of the service here: nothing but the lease protects the job."""
    async with front(tmp_path, COMFYUI, HANDED_OVER) as made:
        assert await post_job(made) == 200
        assert await post_job(made) == 200
        await wait_until("the jobs are on disk", is_recorded, made, 2)
        (before,) = await leases(made)
        blocking = await block(made)
        await works_on(made, blocking, JOB_SEC / 3)

        await made.gateway.end(number)
        await works_on(made, blocking, 0.5)
        await made.gateway.start()

        async def is_extended() -> bool:
            (after,) = await leases(made)
            return bool(after["id"] == before["id"] and after["expires_usec"] > before["expires_usec"])

        await wait_until("the lease is extended", is_extended)
        await works_on(made, blocking, 2 * JOB_SEC / 3)
        await finish(made, blocking)
        assert "2 jobs of the last process are held again" in made.gateway.log


async def test_job_is_taken_over_although_the_gateway_was_killed_before_its_answer(tmp_path: Path) -> None:
    async with front(tmp_path, COMFYUI, NO_LINGER) as made:
        posting = asyncio.create_task(post_job(made, f"/prompt?sec={JOB_SEC + 60}"))
        await wait_until("the job is on disk", is_recorded, made, 1)
        await wait_until("the service has the job", has_job, made)

        await made.gateway.end(signal.SIGKILL)
        await asyncio.gather(posting, return_exceptions=True)
        await made.gateway.start()

        await wait_until("the job is taken over", has_taken_over, made)
        blocking = await block(made)
        await works_on(made, blocking, 2.5)
        await finish(made, blocking)


async def test_request_after_a_restart_shares_the_lease_of_a_job(tmp_path: Path) -> None:
    async with front(tmp_path, COMFYUI, NO_LINGER) as made:
        assert await post_job(made) == 200
        await made.gateway.end()
        await made.gateway.start()
        await wait_until("the job is taken over", has_taken_over, made)

        assert await post_job(made) == 200

        assert await has_leases(made, 1)
        made.service.jobs = 0
        await wait_until("the jobs have ended", has_leases, made, 0)


async def test_busy_service_whose_lease_expired_is_not_evicted_before_or_after_the_next_gateway_starts(
    tmp_path: Path,
) -> None:
    """The gateway is away for longer than its lease lives. The busy check in gpumand protects the job meanwhile."""
    async with front(tmp_path, COMFYUI, SHORT_LEASE, BUSY) as made, model_in_memory(made):
        assert await post_job(made) == 200
        await wait_until("the job is on disk", is_recorded, made, 1)
        await made.gateway.end(signal.SIGKILL)
        await wait_until("the lease has expired", has_leases, made, 0)

        blocking = await block(made)
        await works_on(made, blocking, JOB_SEC)
        await made.gateway.start()
        await works_on(made, blocking, 2.5)

        await finish(made, blocking)
        await wait_until("no lease is left", has_leases, made, 0)


async def test_lease_of_a_stopped_gateway_ends_by_itself_and_its_work_gets_another_from_the_next_one(
    tmp_path: Path,
) -> None:
    async with front(tmp_path, COMFYUI, SHORT_LEASE) as made:
        assert await post_job(made) == 200
        assert await made.gateway.end() == 0
        assert await has_leases(made, 1)
        await wait_until("the lease has expired", has_leases, made, 0)

        await made.gateway.start()

        await wait_until("the job has a lease again", has_leases, made, 1)
        blocking = await block(made)
        await works_on(made, blocking, 2.5)
        await finish(made, blocking)


# -- limits ------------------------------------------------------------------------------------------------------------


async def shown(made: Board) -> list[dict[str, Any]]:
    return [one for one in (await made.get("requests"))["requests"] if one["state"] == "job"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((401, "no key"), "401"),
        ((500, "broken"), "500"),
        ((200, "<html>"), "configured values"),
        ((200, '{"exec_info": {}}'), "configured values"),
    ],
)
async def test_service_whose_busy_check_cannot_be_used_keeps_the_lease_for_the_grace_period(
    tmp_path: Path, answer: tuple[int, str], reason: str
) -> None:
    async with board(tmp_path, NO_LINGER, COMFYUI + "\nbusy_grace_sec = 4") as made:
        made.front.service.busy_answer = answer
        began = asyncio.get_running_loop().time()
        assert await post_job(made.front) == 200

        async def says_why() -> bool:
            (job,) = await shown(made)
            return reason in job["waits_for"] and "held for at most 4 s without an answer" in job["waits_for"]

        await wait_until("the list names the reason", says_why)
        await wait_until("no lease is left", has_leases, made.front, 0)
        assert asyncio.get_running_loop().time() - began >= 4
        assert await shown(made) == []
        assert "no usable answer within busy_grace_sec" in made.front.gateway.log


async def test_busy_check_has_the_key_of_the_service(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n")
    key.chmod(0o600)
    async with front(tmp_path, f'{COMFYUI}\nkey_file = "{key}"', NO_LINGER) as made:
        assert await post_job(made) == 200

        async def is_asked() -> bool:
            sent = [headers for method, path, headers in made.service.seen if (method, path) == ("GET", "/prompt")]
            return any(headers.get("Authorization") == "Bearer secret" for headers in sent)

        await wait_until("the busy check has the key", is_asked)
        made.service.jobs = 0


async def test_service_that_was_stopped_with_its_work_keeps_no_lease(tmp_path: Path) -> None:
    async with front(tmp_path, COMFYUI + "\nbusy_grace_sec = 3600", NO_LINGER) as made:
        assert await post_job(made) == 200
        assert await has_leases(made, 1)

        await made.service.stop()

        await wait_until("no lease is left", has_leases, made, 0)


async def test_job_whose_tls_handshake_failed_keeps_no_lease(tmp_path: Path) -> None:
    async with front(tmp_path, COMFYUI + "\nbusy_grace_sec = 3600", NO_LINGER, scheme="https") as made:
        assert await post_job(made) == 502

        await wait_until("no lease is left", has_leases, made, 0)


async def test_job_is_held_for_the_configured_maximum(tmp_path: Path) -> None:
    async with front(tmp_path, COMFYUI + "\nmax_job_sec = 2", NO_LINGER) as made:
        assert await post_job(made) == 200
        assert await has_leases(made, 1)

        await wait_until("no lease is left", has_leases, made, 0)

        assert made.service.jobs == 1


async def test_job_of_a_websocket_is_held_after_its_messages_and_its_end(tmp_path: Path) -> None:
    listener = 'preset = "a1111"\nws_idle_sec = 1'
    async with front(tmp_path, listener, NO_LINGER) as made:
        made.service.jobs = 1
        async with made.session.ws_connect(f"{made.url}/queue/join") as socket:
            await socket.send_str("a picture")
            assert await socket.receive_str() == "echo a picture"
            blocking = await block(made)
            await works_on(made, blocking, 2.5)
        await works_on(made, blocking, 2.0)

        await finish(made, blocking)


# -- lists and cancel --------------------------------------------------------------------------------------------------


async def gpumanctl(made: Board, *arguments: str) -> str:
    """Run a command of gpumanctl gateway as root; returns its output."""
    address = f"unix:{made.front.host.folder / 'own.sock'}"
    command = [sys.executable, "-m", "gpumand.cli", "gateway", *arguments, "--address", address]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_held_job_is_shown_and_its_lease_can_be_given_back_while_its_work_goes_on(tmp_path: Path) -> None:
    async with board(tmp_path, NO_LINGER, COMFYUI) as made:
        assert await post_job(made.front) == 200

        async def is_described() -> bool:
            jobs = await shown(made)
            return [one["waits_for"] for one in jobs] == ["fake reports 1 job"]

        await wait_until("the job is shown", is_described)
        (job,) = await shown(made)
        assert {name: job[name] for name in ("consumer", "method", "path", "class", "state", "status")} == {
            "consumer": "fake",
            "method": "POST",
            "path": "/prompt",
            "class": "job",
            "state": "job",
            "status": 200,
        }
        assert job["began_usec"] > 0
        assert (await made.get("state"))["requests"] == [job]
        async with made.front.session.get(f"{made.url}/metrics") as answer:
            assert 'in_flight{consumer="fake",state="job"} 1' in await answer.text()
        listed = await gpumanctl(made, "requests")
        assert "fake reports 1 job" in listed
        assert "1 job held" in await gpumanctl(made, "status")
        assert (await made.post(f"requests/{job['number']}/cancel", as_root=False))[0] == 403

        told = await gpumanctl(made, "cancel", str(job["number"]))

        assert "no longer held" in told
        assert "Its work goes on in fake" in told
        await wait_until("no lease is left", has_leases, made.front, 0)
        assert await shown(made) == []
        assert made.front.service.jobs == 1
        assert [one for one in made.front.service.paths() if one.startswith("POST")] == ["POST /prompt"]
        assert (await made.post(f"requests/{job['number']}/cancel"))[0] == 404
        await made.front.gateway.end()
        await made.front.gateway.start()
        assert await shown(made) == []
        assert await has_leases(made.front, 0)
