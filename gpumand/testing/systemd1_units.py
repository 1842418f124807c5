"""Units of the fake systemd: real processes, with jobs that start and stop them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from itertools import count
from typing import IO, Any

JOB_PREFIX = "/org/freedesktop/systemd1/job/"
job_ids = count(1)


@dataclass(slots=True)
class Behaviour:
    """Behaviour of a unit; the keys of the units file and of ``org.gpumand1.Testing.Configure``.

    Attributes:
        alias_of: the unit that the name stands for; "" = it is the name of a unit.
        argv: command of the process, which runs in its own session; empty: the unit runs without a process.
        output: file to which the output of the process is appended; "" discards it.
        load_state: "loaded", "masked", "not-found", "bad-setting".
        start_delay_sec, stop_delay_sec: seconds that a job waits before its work.
        start_result: result of a start job; any value other than "done" leaves the unit failed.
        condition_fails: a start is "done" but starts nothing.
        job_removed: when JobRemoved is sent: "after" the reply that names the job, "before" it, or "never".
        ignores_sigterm: only SIGKILL ends the processes.
        kill_after_sec: seconds from SIGTERM to SIGKILL; reported as TimeoutStopUSec.
        start_limit_sec: reported as TimeoutStartUSec.
        reactivates_after_sec: seconds after a stop at which the unit starts by itself; negative: never.
        restart_after_sec: seconds after a failure at which the unit starts again (Restart=); negative: never.
        remain_after_exit: the unit stays active when its process has exited with status 0.
        kill_main_only: a stop ends the main process only (KillMode=process).
        triggered_by: units reported as TriggeredBy.
        access: "" allows all clients, "denied", or "interactive" (a password would be required).
        destructive: jobs are refused, because they would conflict with a queued shutdown.
    """

    alias_of: str = ""
    argv: list[str] = field(default_factory=list)
    output: str = ""
    load_state: str = "loaded"
    start_delay_sec: float = 0.0
    stop_delay_sec: float = 0.0
    start_result: str = "done"
    condition_fails: bool = False
    job_removed: str = "after"
    ignores_sigterm: bool = False
    kill_after_sec: float = 5.0
    start_limit_sec: float = 90.0
    reactivates_after_sec: float = -1.0
    restart_after_sec: float = -1.0
    remain_after_exit: bool = False
    kill_main_only: bool = False
    triggered_by: list[str] = field(default_factory=list)
    access: str = ""
    destructive: bool = False

    def change(self, changes: dict[str, Any]) -> None:
        """Change some keys. Raises ValueError for an unknown key."""
        known = {one.name for one in fields(self)}
        for key, value in changes.items():
            if key not in known:
                raise ValueError(f"unknown key: {key}")
            setattr(self, key, value)


@dataclass(slots=True)
class Job:
    """A job in the queue: "start", "stop" or "restart"."""

    kind: str
    unit: str
    id: int = field(default_factory=lambda: next(job_ids))
    result: str = ""
    done: asyncio.Event = field(default_factory=asyncio.Event)
    announced: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def path(self) -> str:
        """D-Bus object path of the job."""
        return f"{JOB_PREFIX}{self.id}"


class FakeSystemdUnit:
    """One unit with its state, its process and its job.

    ``changed`` is called after every change of state; ``job_new`` and ``job_done`` when a job is queued and finished.
    """

    def __init__(
        self,
        name: str,
        behaviour: Behaviour,
        changed: Callable[[FakeSystemdUnit], None],
        job_new: Callable[[Job], None],
        job_done: Callable[[Job], None],
    ) -> None:
        self.name = name
        self.behaviour = behaviour
        self.active_state = "inactive"
        self.sub_state = "dead"
        self.result = "success"
        self.invocation_id = b""
        self.active_enter_usec = 0
        self.restarts = 0
        self.job: Job | None = None
        self._changed = changed
        self._job_new = job_new
        self._job_done = job_done
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None

    @property
    def main_pid(self) -> int:
        """Process id of the main process; 0 if none runs."""
        return self._process.pid if self._process is not None else 0

    def owns(self, pid: int) -> bool:
        """Return whether a process is in the session of the unit's main process."""
        try:
            return self.main_pid > 0 and os.getsid(pid) == self.main_pid
        except ProcessLookupError:
            return False

    def enqueue(self, kind: str) -> Job:
        """Queue a job as mode "replace" does: return a queued job of the same kind, or replace one of another kind."""
        if self.job is not None and self.job.kind == kind:
            return self.job
        if self.job is not None:
            self._finish(self.job, "canceled")
        job = self.job = Job(kind, self.name)
        self._job_new(job)
        self._changed(self)
        self._running = self._spawn(self._run(job, self._running))
        return job

    async def close(self) -> None:
        """Kill the processes of the unit."""
        for task in tuple(self._tasks):
            task.cancel()
        self._signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()

    async def _run(self, job: Job, former: asyncio.Task[None] | None) -> None:
        """Run a job after the former one has finished its current step: one job at a time."""
        if former is not None:
            await asyncio.wait([former])
        result = "canceled"
        if job.kind in ("stop", "restart") and not job.result:
            result = await self._stop()
        if job.kind in ("start", "restart") and not job.result:
            result = await self._start()
        self._finish(job, result)

    async def _start(self) -> str:
        if self.active_state == "active":
            return "done"
        if self.behaviour.condition_fails:
            return "done"
        self.invocation_id = os.urandom(16)  # before ExecStartPre=, as systemd does
        self._become("activating", "start")
        await asyncio.sleep(self.behaviour.start_delay_sec)
        if self.behaviour.start_result != "done":
            self._become("failed", "failed", "timeout" if self.behaviour.start_result == "timeout" else "exit-code")
            return self.behaviour.start_result
        if self.behaviour.argv:
            await self._launch()
        self._become("active", "running", "success")
        return "done"

    async def _launch(self) -> None:
        with self._open_output() as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.behaviour.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=os.environ | {"INVOCATION_ID": self.invocation_id.hex()},
            )
        self._spawn(self._reap(self._process))

    def _open_output(self) -> IO[bytes]:
        return open(self.behaviour.output or os.devnull, "ab")

    async def _reap(self, process: asyncio.subprocess.Process) -> None:
        """Wait for the main process; if it was not stopped by a job, change the state of the unit."""
        code = await process.wait()
        if self._process is not process:  # a stop job has ended it, or a new process has been started
            return
        if not self.behaviour.kill_main_only and not (self.behaviour.remain_after_exit and code == 0):
            self._signal(signal.SIGKILL)
        self._process = None
        if self.active_state == "active":
            if self.behaviour.remain_after_exit and code == 0:
                self._become("active", "exited")
                return
            result = "success" if code == 0 else "exit-code" if code > 0 else "signal"
            self._become("inactive" if code == 0 else "failed", "dead" if code == 0 else "failed", result)
            if code != 0 and self.behaviour.restart_after_sec >= 0:
                self._spawn(self._restart(self._running))

    async def _stop(self) -> str:
        if self.active_state in ("inactive", "failed"):
            return "done"
        self._become("deactivating", "stop-sigterm")
        await asyncio.sleep(self.behaviour.stop_delay_sec)
        killed = await self._end_processes()
        self._become(
            "failed" if killed else "inactive", "failed" if killed else "dead", "timeout" if killed else "success"
        )
        if self.behaviour.reactivates_after_sec >= 0:
            self._spawn(self._reactivate())
        return "done"

    async def _end_processes(self) -> bool:
        """End all processes of the unit; return whether SIGKILL was necessary."""
        process = self._process
        if process is None:
            return False
        if not self.behaviour.ignores_sigterm:
            self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.behaviour.kill_after_sec):
                await process.wait()
            return False
        except TimeoutError:
            return True
        finally:
            self._signal(signal.SIGKILL)
            await process.wait()
            self._process = None

    async def _reactivate(self) -> None:
        """Start the unit again after a delay, as socket activation does for a waiting client."""
        if self.job is not None:
            await self.job.done.wait()
        await asyncio.sleep(self.behaviour.reactivates_after_sec)
        self.enqueue("start")

    async def _restart(self, last_job: asyncio.Task[None] | None) -> None:
        """Start the unit again after a failure, unless a job decides otherwise before."""
        self._become("activating", "auto-restart")
        await asyncio.sleep(self.behaviour.restart_after_sec)
        if self.active_state == "activating" and self._running is last_job:
            self.restarts += 1
            self.active_state = "inactive"
            await self._start()

    def _become(self, active_state: str, sub_state: str, result: str | None = None) -> None:
        if active_state == "active" != self.active_state:
            self.active_enter_usec = time.monotonic_ns() // 1000
        self.active_state, self.sub_state = active_state, sub_state
        self.result = self.result if result is None else result
        self._changed(self)

    def _finish(self, job: Job, result: str) -> None:
        if job.result:
            return
        job.result = result
        if self.job is job:
            self.job = None
        self._job_done(job)
        job.done.set()
        self._changed(self)

    def _signal(self, number: int) -> None:
        """Send a signal to the process group of the main process."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
