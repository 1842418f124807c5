"""The screen while it lives: asks the daemon, draws, does what keys ask for."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.cli.client import Client, Options
from gpumand.cli.consumer_lookup import entry_of
from gpumand.cli.durations import to_usec
from gpumand.cli.errors import interpret
from gpumand.cli.options import GlobalOptions
from gpumand.cli.output import look_of, paint
from gpumand.cli.render.lines import evict_line, load_line
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme
from gpumand.cli.top.frame import frame
from gpumand.cli.top.model import Command, Message, Model, Verb, press
from gpumand.cli.top.terminal import Terminal

if TYPE_CHECKING:
    from gpumand.bus.connection import Signal

RECENT = 50
RECENT_WISH: Options = {"kinds": ("as", ["eviction", "eviction-failed"]), "limit": ("u", RECENT)}

LEAST_GAP_SEC = 0.1
"""However many signals come, the daemon is not asked more often."""

LOAD_SEC, EVICT_SEC = 600.0, 120.0
"""How long an action may take: somebody sees it happen, and can leave."""

ENDING = (signal.SIGTERM, signal.SIGHUP)

GONE = "gpumand left the bus, and is waited for"


async def snapshot(client: Client) -> Model:
    """What there is to be shown. Raises as the client does."""
    status, recent = await asyncio.gather(client.status(), client.history(RECENT_WISH))
    return replace(Model().with_status(status), recent=tuple(recent))


class Top:
    """A live screen on standard output.

    Args:
        client: to ask.
        options: the shared ones.
        interval_sec: how often to ask while nothing is heard.

    Attributes:
        ended_by: the signal that ended it; 0 for a key.
    """

    def __init__(self, client: Client, options: GlobalOptions, interval_sec: float) -> None:
        self.ended_by = 0
        self._client = client
        self._options = options
        self._interval_sec = interval_sec
        self._model = Model()
        self._dirty = asyncio.Event()
        self._stale = asyncio.Event()
        self._is_over = False
        self._is_absent = False
        self._recent_is_stale = False
        self._refreshing = asyncio.Lock()
        self._owners_heard = 0
        self._actions: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Show until a key, a signal or the end of the bus. Raises what keeps it from beginning, and BusLost."""
        await self._client.listen(self._hear)
        self._model = await snapshot(self._client)
        loop = asyncio.get_running_loop()
        for number in ENDING:
            loop.add_signal_handler(number, self._end, number)
        looking = asyncio.ensure_future(self._look())
        lost = asyncio.ensure_future(self._client.connection.wait_lost())
        for task in (looking, lost):
            task.add_done_callback(lambda _: self._dirty.set())
        try:
            with Terminal(self._press, self._dirty.set) as terminal:
                await self._draw(terminal, looking, lost)
        finally:
            for one in (looking, lost, *self._actions):
                one.cancel()
            for number in ENDING:
                loop.remove_signal_handler(number)

    async def _draw(self, terminal: Terminal, looking: asyncio.Future[None], lost: asyncio.Future[None]) -> None:
        while not self._is_over:
            self._dirty.clear()
            terminal.show(self._painted(terminal.size))
            await self._dirty.wait()
            if lost.done():
                raise BusLost(self._client.connection.lost_reason)
            if looking.done():
                looking.result()

    def _painted(self, size: tuple[int, int]) -> list[str]:
        columns, height = size
        look = replace(look_of(sys.stdout, self._options), width=columns, legend=True)
        return painted(frame(self._model, time.time_ns() // 1000, look, height), look)

    # -- what there is to be seen --------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Ask again every so often, and soon after something has happened."""
        while True:
            self._stale.clear()
            await self._refresh()
            self._dirty.set()
            await asyncio.sleep(min(LEAST_GAP_SEC, self._interval_sec))
            try:
                async with asyncio.timeout(self._interval_sec):
                    await self._stale.wait()
            except TimeoutError:
                continue

    async def _refresh(self) -> None:
        """Take a snapshot, one at a time: an earlier one must not be shown after a later one."""
        async with self._refreshing:
            await self._take_snapshot()

    async def _take_snapshot(self) -> None:
        """A daemon that has gone is not asked, since that would have the bus start it."""
        heard = self._owners_heard
        if self._is_absent and not await self._client.is_running():
            self._model = replace(self._model, away=GONE)
            return
        try:
            status = await self._client.status()
            if self._recent_is_stale and heard == self._owners_heard:
                self._recent_is_stale = False
                recent = await self._client.history(RECENT_WISH)
                self._model = replace(self._model, recent=tuple(recent))  # of now: keys and actions change it meanwhile
        except BusError as error:
            self._is_absent = not await self._client.is_running()
            failure = interpret(error, self._options)
            why = GONE if self._is_absent or failure is None else failure.message
            self._model = replace(self._model, away=why)
        else:
            if heard == self._owners_heard:  # else it came or went meanwhile, and is asked for anew if it is there
                self._is_absent = False
                self._model = self._model.with_status(status)

    def _hear(self, heard: Signal) -> None:
        if heard.member == "NameOwnerChanged":
            self._owners_heard += 1
            self._is_absent = not heard.body[2]
            self._recent_is_stale = True
            if self._is_absent:
                self._model = replace(self._model, away=GONE)
                self._dirty.set()
        elif heard.member.startswith("Eviction"):
            self._recent_is_stale = True
        self._stale.set()

    # -- what is asked for ---------------------------------------------------------------------------------------

    def _press(self, key: str) -> None:
        """A key; none at all when the terminal has gone."""
        step = press(self._model, key)
        self._model = step.model
        if not key or (step.command is not None and step.command.verb is Verb.QUIT):
            self._is_over = True
        elif step.command is not None:
            action = asyncio.ensure_future(self._act(step.command))
            self._actions.add(action)
            action.add_done_callback(self._actions.discard)
        self._dirty.set()

    def _end(self, number: signal.Signals) -> None:
        self.ended_by, self._is_over = int(number), True
        self._dirty.set()

    async def _act(self, command: Command) -> None:
        """Do it, and say what came of it; nothing that goes wrong there ends the screen."""
        try:
            message = Message(await self._done(command))
            await self._refresh()  # what is said and what is shown are of the same moment
        except Exception as error:
            failure = interpret(error, self._options)
            message = Message(failure.message if failure else f"{type(error).__name__}: {error}", is_error=True)
        self._model = replace(self._model, message=message)
        self._stale.set()
        self._dirty.set()

    async def _done(self, command: Command) -> str:
        client, name = self._client, command.consumer
        match command.verb:
            case Verb.LOAD:
                outcome = await client.load(name, _within(LOAD_SEC), LOAD_SEC)
                return load_line(outcome, await entry_of(client, name))
            case Verb.EVICT:
                return evict_line(await client.evict(name, _within(EVICT_SEC), EVICT_SEC))
            case Verb.FORCE:
                wish = {**_within(EVICT_SEC), "force": ("b", True)}
                return evict_line(await client.evict(name, wish, EVICT_SEC))
        await client.pin(name, command.verb is Verb.PIN)
        return f"{name} is {'pinned' if command.verb is Verb.PIN else 'not pinned any more'}"


def _within(seconds: float) -> dict[str, tuple[str, Any]]:
    return {"timeout_usec": ("t", to_usec(seconds))}


def painted(lines: list[Text], look: Theme) -> list[str]:
    """The lines as strings with escape sequences."""
    return paint(lines, look).split("\n")[:-1]
