"""Runs the live screen: polls the daemon, draws frames and carries out the actions of keys."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.cli.client import Client, Options
from gpumand.cli.consumer_lookup import consumer_entry
from gpumand.cli.durations import timeout_usec
from gpumand.cli.errors import interpret
from gpumand.cli.options import GlobalOptions
from gpumand.cli.output import paint, theme_for
from gpumand.cli.render.format import ahead
from gpumand.cli.render.lines import evict_line, load_line
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme
from gpumand.cli.top import keys, palette
from gpumand.cli.top.frame import screen
from gpumand.cli.top.model import Command, KeyResult, Message, Model, Verb
from gpumand.cli.top.pressing import click, press, wheel
from gpumand.cli.top.processes import Expected, ProcessReader, expected_in
from gpumand.cli.top.screen import Screen
from gpumand.cli.top.terminal import Terminal

if TYPE_CHECKING:
    from gpumand.bus.connection import Signal

RECENT = 50
RECENT_OPTIONS: Options = {
    "kinds": ("as", ["eviction", "eviction-failed", "eviction-deferred"]),
    "limit": ("u", RECENT),
}

MIN_REFRESH_GAP_SEC = 0.1
"""Minimum time between two status calls, however many signals arrive."""

LOAD_SEC, EVICT_SEC = 600.0, 120.0
"""Timeouts of actions, in seconds. They are generous because the user watches the screen and can quit."""

TERMINATING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

DAEMON_GONE = "gpumand left the bus; waiting for it to return"


WHEEL_ROWS = 3
"""Rows that the selection moves by for one step of the mouse wheel."""


async def snapshot(client: Client) -> Model:
    """A model with the current status and the recent evictions. Raises the errors of the client."""
    status, recent = await asyncio.gather(client.status(), client.history(RECENT_OPTIONS))
    facts = await asyncio.to_thread(ProcessReader().read, expected_in(status))
    return replace(Model(facts=facts).with_status(status), recent=tuple(recent))


class Top:
    """A live screen on standard output.

    Args:
        client: connection to the daemon.
        options: the global options of gpumanctl.
        interval_sec: seconds between two status calls while no signal arrives.
        theme: name of the color theme.
        mouse: whether the mouse is used.

    Attributes:
        ended_by: number of the signal that ended it; 0 if a key did.
    """

    def __init__(
        self,
        client: Client,
        options: GlobalOptions,
        interval_sec: float,
        theme: str = palette.NAMES[0],
        *,
        mouse: bool = True,
    ) -> None:
        self.ended_by = 0
        self._client = client
        self._options = options
        self._interval_sec = interval_sec
        self._model = Model(theme=theme, mouse=mouse)
        self._screen = Screen(())
        self._reader = ProcessReader()
        self._reading: asyncio.Future[None] | None = None
        self._dirty = asyncio.Event()
        self._stale = asyncio.Event()
        self._is_finished = False
        self._is_absent = False
        self._recent_is_stale = False
        self._refreshing = asyncio.Lock()
        self._owner_changes = 0
        self._actions: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Show the screen until a key or a signal ends it. Raises BusLost, and the errors of the first status call."""
        # Subscribed before the first status call, so that no change between the two is missed.
        await self._client.listen(self._on_signal)
        first = await snapshot(self._client)
        self._model = replace(first, theme=self._model.theme, mouse=self._model.mouse)
        loop = asyncio.get_running_loop()
        for number in TERMINATING_SIGNALS:
            loop.add_signal_handler(number, self._end, number)
        polling = asyncio.ensure_future(self._poll())
        lost = asyncio.ensure_future(self._client.connection.wait_lost())
        for task in (polling, lost):
            task.add_done_callback(lambda _: self._dirty.set())
        try:
            with Terminal(self._press, self._dirty.set) as terminal:
                await self._draw(terminal, polling, lost)
        finally:
            for one in (polling, lost, *self._actions, *filter(None, [self._reading])):
                one.cancel()
            for number in TERMINATING_SIGNALS:
                loop.remove_signal_handler(number)

    async def _draw(self, terminal: Terminal, polling: asyncio.Future[None], lost: asyncio.Future[None]) -> None:
        while not self._is_finished:
            self._dirty.clear()
            terminal.use_mouse(self._model.mouse)
            terminal.show(self._rendered_lines(terminal.size))
            await self._dirty.wait()
            if lost.done():
                raise BusLost(self._client.connection.lost_reason)
            if polling.done():
                polling.result()

    def _rendered_lines(self, size: tuple[int, int]) -> list[str]:
        columns, height = size
        is_mono = self._model.theme == palette.MONO
        theme = replace(theme_for(sys.stdout, self._options), width=columns, legend=True, letters=is_mono)
        self._screen = screen(self._model, time.time_ns() // 1000, theme, height)
        # A page cannot be scrolled beyond its end, which only the screen knows.
        self._model = replace(self._model, scroll=self._screen.scroll)
        return ansi_lines(palette.themed(self._screen.texts, self._model.theme), theme)

    # -- polling the daemon -------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        """Refresh at every interval, and soon after a signal."""
        while True:
            # Cleared before the call: a signal that arrives during it marks the answer as stale again.
            self._stale.clear()
            await self._refresh()
            self._dirty.set()
            self._read_processes()
            await asyncio.sleep(min(MIN_REFRESH_GAP_SEC, self._interval_sec))
            try:
                async with asyncio.timeout(self._interval_sec):
                    await self._stale.wait()
            except TimeoutError:
                continue

    def _read_processes(self) -> None:
        """Start reading /proc for the processes of the status, unless the last reading has not ended: a process that
        is stuck in the kernel can delay its command line."""
        status = self._model.status
        if status is not None and (self._reading is None or self._reading.done()):
            self._reading = asyncio.ensure_future(self._take_facts(expected_in(status)))

    async def _take_facts(self, expected: dict[int, Expected]) -> None:
        facts = await asyncio.to_thread(self._reader.read, expected)
        self._model = replace(self._model, facts=facts)
        self._dirty.set()

    async def _refresh(self) -> None:
        """Take a snapshot. The lock keeps an older snapshot from replacing a newer one."""
        async with self._refreshing:
            await self._take_snapshot()

    async def _take_snapshot(self) -> None:
        """Request a status; a daemon that left the bus is not called, because a call would make the bus start it."""
        owner_changes = self._owner_changes
        if self._is_absent and not await self._client.is_running():
            self._model = replace(self._model, stale_reason=DAEMON_GONE)
            return
        try:
            status = await self._client.status()
            if self._recent_is_stale and owner_changes == self._owner_changes:
                self._recent_is_stale = False
                recent = await self._client.history(RECENT_OPTIONS)
                # Replaced in the current model: keys and actions may have changed it during the call.
                self._model = replace(self._model, recent=tuple(recent))
        except BusError as error:
            self._is_absent = not await self._client.is_running()
            failure = interpret(error, self._options)
            why = DAEMON_GONE if self._is_absent or failure is None else failure.message
            self._model = replace(self._model, stale_reason=why)
        else:
            # If the daemon left or returned during the call, this answer may be of the old one: drop it. The signal
            # has already scheduled another refresh.
            if owner_changes == self._owner_changes:
                self._is_absent = False
                self._model = self._model.with_status(status)

    def _on_signal(self, event: Signal) -> None:
        if event.member == "NameOwnerChanged":
            self._owner_changes += 1
            self._is_absent = not event.body[2]
            self._recent_is_stale = True
            if self._is_absent:
                self._model = replace(self._model, stale_reason=DAEMON_GONE)
                self._dirty.set()
        elif event.member.startswith("Eviction"):
            self._recent_is_stale = True
        self._stale.set()

    # -- actions -------------------------------------------------------------------------------------------------

    def _press(self, key: str) -> None:
        """Handle a key; "" means that the terminal is gone."""
        result = self._handle(key)
        self._model = result.model
        if not key or (result.command is not None and result.command.verb is Verb.QUIT):
            self._is_finished = True
        elif result.command is not None and result.command.verb is not Verb.MOUSE:
            # Kept in a set: the event loop holds only weak references to tasks.
            action = asyncio.ensure_future(self._run_command(result.command))
            self._actions.add(action)
            action.add_done_callback(self._actions.discard)
        self._dirty.set()

    def _handle(self, key: str) -> KeyResult:
        """The result of a key, or of a mouse event at the place where it happened."""
        event = keys.mouse_event(key)
        if event is None:
            return press(self._model, key)
        name, column, line = event
        hit = self._screen.hit(column, line)
        if name != keys.CLICK:
            return wheel(self._model, hit.section, -WHEEL_ROWS if name == keys.WHEEL_UP else WHEEL_ROWS)
        if hit.key:
            return press(self._model, hit.key)
        return click(self._model, hit.section, hit.row)

    def _end(self, number: signal.Signals) -> None:
        self.ended_by, self._is_finished = int(number), True
        self._dirty.set()

    async def _run_command(self, command: Command) -> None:
        """Carry out an action and show its result; an error becomes a message and never ends the screen."""
        try:
            message = Message(await self._execute(command))
            # Refreshed before the message is shown, so that the message and the status agree.
            await self._refresh()
        except Exception as error:
            failure = interpret(error, self._options)
            message = Message(failure.message if failure else f"{type(error).__name__}: {error}", is_error=True)
        self._model = replace(self._model, message=message)
        self._stale.set()
        self._dirty.set()

    async def _execute(self, command: Command) -> str:
        client, name = self._client, command.target
        match command.verb:
            case Verb.LOAD:
                outcome = await client.load(name, timeout_usec(LOAD_SEC), LOAD_SEC)
                return load_line(outcome, await consumer_entry(client, name))
            case Verb.EVICT:
                return evict_line(await client.evict(name, timeout_usec(EVICT_SEC), EVICT_SEC))
            case Verb.FORCE:
                options = {**timeout_usec(EVICT_SEC), "force": ("b", True)}
                return evict_line(await client.evict(name, options, EVICT_SEC))
            case Verb.PIN | Verb.UNPIN:
                await client.pin(name, command.verb is Verb.PIN)
                return f"{name} is {'pinned' if command.verb is Verb.PIN else 'no longer pinned'}"
        return await self._end_or_renew(command)

    async def _end_or_renew(self, command: Command) -> str:
        """Carry out an action on a lease or a waiting request."""
        match command.verb:
            case Verb.RENEW:
                expires_usec = await self._client.renew(command.target, 0)
                return f"{command.label} ends {ahead(expires_usec, time.time_ns() // 1000)}"
            case Verb.RELEASE:
                await self._client.release(command.target)
                return f"{command.label} is released"
        await self._client.cancel(command.target)
        return f"{command.label} is cancelled"


def ansi_lines(lines: list[Text], theme: Theme) -> list[str]:
    """The lines as strings with escape sequences."""
    return paint(lines, theme).split("\n")[:-1]
