"""Asks the container helper to start, stop and inspect containers: the port Containers over its Unix socket.

The helper runs as root (``gpumand.root_helpers.containers``) and accepts only containers of the configuration.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from gpumand.containers.answers import InvalidAnswer, container_state, lines_of
from gpumand.domain.container import ContainerState
from gpumand.ports import ContainerFailed

MAX_ANSWER_BYTES = 512 << 10
MAX_LISTED = 256
ANSWER_SEC = 30.0
"""Seconds for an answer about a state or a log: the helper asks each engine for up to 10 s."""

SPARE_SEC = 5.0
"""Seconds by which the wait for a start or stop is longer than the helper's own limit, so that its reason arrives."""

SETTLE_SEC = 0.05
"""How long to wait after a stop before checking that the container stays stopped."""

RESTART_SEC = 1.0
"""The same for a container that a restart policy or a unit may start again: systemd does so after 0.1 s by default."""

RESTART_POLL_SEC = 0.2
HELPER_SOCKET_UNIT = "gpumand-containers.socket"
UNIT_LABEL = "PODMAN_SYSTEMD_UNIT"


class HelperContainers:
    """The containers of the configuration.

    Args:
        path: the helper's socket.
        user: whether it is the helper of a user, which messages name.
        settle_sec: see ``SETTLE_SEC``.
        restart_sec: see ``RESTART_SEC``.
    """

    def __init__(
        self,
        path: str,
        *,
        user: bool = False,
        settle_sec: float = SETTLE_SEC,
        restart_sec: float = RESTART_SEC,
    ) -> None:
        self._path = path
        self._user = user
        self._settle_sec = settle_sec
        self._restart_sec = restart_sec

    async def inspect(self, name: str) -> ContainerState:
        """Return the current state of a container. Raises ContainerFailed."""
        return _parsed(await self._call({"do": "inspect", "container": name}, ANSWER_SEC))

    async def list(self) -> tuple[ContainerState, ...]:
        """Return the configured containers that exist. Raises ContainerFailed."""
        answer = await self._call({"do": "list"}, ANSWER_SEC)
        listed = answer.get("containers") if isinstance(answer, dict) else None
        return tuple(_parsed(one) for one in (listed if isinstance(listed, list) else [])[:MAX_LISTED])

    async def start(self, name: str, timeout_sec: float) -> None:
        """Start a container and check that it runs. Raises ContainerFailed."""
        try:
            await self._call({"do": "start", "container": name, "timeout_sec": timeout_sec}, timeout_sec + SPARE_SEC)
        except ContainerFailed as failed:
            if failed.reason == "not-found":
                advice = "create it first, without --rm, which removes a container when it stops; or set unit"
                raise ContainerFailed(f"{failed}: {advice}", failed.reason) from None
            raise
        state = await self.inspect(name)
        if not state.running:
            raise ContainerFailed(f"container {name} did not start: {describe_end(state)}", "failed")

    async def stop(self, name: str, timeout_sec: float) -> None:
        """Stop a container and check that it stays stopped; one that does not exist is. Raises ContainerFailed."""
        try:
            answer = await self._call(
                {"do": "stop", "container": name, "timeout_sec": timeout_sec}, timeout_sec + SPARE_SEC
            )
        except ContainerFailed as failed:
            if failed.reason == "not-found":
                return
            raise
        await self._check_stays_stopped(name, _parsed(answer))

    async def log_lines(self, name: str, since: str = "", until: str = "") -> tuple[str, ...]:
        """Return the last lines that a container wrote between two times of an engine. Raises ContainerFailed."""
        answer = await self._call({"do": "logs", "container": name, "since": since, "until": until}, ANSWER_SEC)
        return lines_of(answer)

    async def _check_stays_stopped(self, name: str, before: ContainerState) -> None:
        """Raise ContainerFailed if the container runs, or is started again within a short time."""
        await asyncio.sleep(self._settle_sec)
        state, has_run = await self._state_after_stop(name), before.running
        clock, may_restart = asyncio.get_running_loop().time, has_run and may_start_again(before)
        deadline = clock() + (self._restart_sec if may_restart else 0.0)
        while state is None or not state.running:
            if clock() >= deadline:
                return
            await asyncio.sleep(min(RESTART_POLL_SEC, self._restart_sec))
            state = await self._state_after_stop(name)
        if state.run_id == before.run_id:
            raise ContainerFailed(f"container {name} did not stop: {state.engine} says that it still runs", "failed")
        raise ContainerFailed(
            f"container {name} was started again right after it was stopped{restarter(state)}", "restarted"
        )

    async def _state_after_stop(self, name: str) -> ContainerState | None:
        """The state; None where the engine has removed the container, as with --rm."""
        try:
            return await self.inspect(name)
        except ContainerFailed as failed:
            if failed.reason == "not-found":
                return None
            raise

    async def _call(self, request: Mapping[str, Any], limit_sec: float) -> Any:
        """Send one request. Raises ContainerFailed."""
        subject = f"container {request['container']}" if "container" in request else "containers"
        try:
            async with asyncio.timeout(limit_sec):
                line = await self._exchange(json.dumps(request).encode() + b"\n")
            answer = json.loads(line)
        except TimeoutError:
            raise ContainerFailed(
                f"{subject}: the container helper did not answer within {limit_sec:g} s", "timeout"
            ) from None
        except (OSError, asyncio.IncompleteReadError) as error:
            raise ContainerFailed(f"{subject}: {self._why_unreachable(error)}", "unavailable") from None
        except (ValueError, RecursionError, asyncio.LimitOverrunError):
            raise ContainerFailed(f"{subject}: the container helper sent an invalid answer", "unavailable") from None
        if not isinstance(answer, dict) or ("ok" not in answer and "error" not in answer):
            raise ContainerFailed(f"{subject}: the container helper sent an invalid answer", "unavailable")
        if "error" in answer:
            raise ContainerFailed(str(answer["error"]), str(answer.get("reason", "failed")))
        return answer["ok"]

    async def _exchange(self, line: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._path, limit=MAX_ANSWER_BYTES)
        try:
            writer.write(line)
            await writer.drain()
            return await reader.readuntil(b"\n")
        finally:
            writer.close()

    def _why_unreachable(self, error: Exception) -> str:
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            manager = "systemctl --user" if self._user else "sudo systemctl"
            return f"the container helper does not run. Start it: {manager} enable --now {HELPER_SOCKET_UNIT}"
        return f"the container helper does not answer ({error or type(error).__name__})"


def describe_end(state: ContainerState) -> str:
    """How the last run of a container ended, such as "exit status 1"."""
    if state.error:
        return state.error
    if state.oom_killed:
        return "killed because memory was exhausted"
    return f"exit status {state.exit_code}" if state.exit_code is not None else f"it is {state.status or 'not running'}"


def may_start_again(state: ContainerState) -> bool:
    """Whether something may start it again after a stop: its restart policy, or the unit that Podman runs it in."""
    return state.restart_policy not in ("", "no") or bool(state.label(UNIT_LABEL))


def restarter(state: ContainerState) -> str:
    """What has started a container again, with advice, to follow a message; "" where unknown."""
    if unit := state.label(UNIT_LABEL):
        return f', by {unit}. Set unit = "{unit}" so that gpumand stops the unit'
    if state.restart_policy not in ("", "no"):
        change = f"{state.engine} update --restart=no {state.name}"
        return f"; its restart policy is {state.restart_policy}. Change it: {change}"
    return ". Find out what started it, such as another supervisor"


def _parsed(answer: Any) -> ContainerState:
    """Raises ContainerFailed."""
    try:
        return container_state(answer)
    except InvalidAnswer as error:
        raise ContainerFailed(f"the container helper sent an invalid answer: {error}", "unavailable") from None
