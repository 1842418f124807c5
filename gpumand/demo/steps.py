"""The steps of the demonstration, and the parts of its story that they belong to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpumand.demo.screen import Screen


class ScenarioFailed(Exception):
    """A check failed; the message is one line."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Attributes:
        title: its title.
        run: does it and checks the outcome.
        chapter: heading of the part of the story that begins with it; "" continues the part before.
        shows_device: whether the story shows the memory after it, where no bars update.
    """

    title: str
    run: Callable[[], Coroutine[Any, Any, None]]
    chapter: str = ""
    shows_device: bool = False


class Steps:
    """Runs steps one after the other and prints their headings.

    Args:
        screen: where they are printed.
        status: reads the status that the bars show.

    Attributes:
        current: number and title of the running step, for error messages.
    """

    def __init__(self, screen: Screen, status: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        self.current = ""
        self._screen, self._status = screen, status

    async def run(self, steps: Sequence[Step], first: int = 1, first_chapter: int = 1) -> None:
        """Run the steps; raises what they raise.

        Args:
            steps: the steps.
            first: number of the first step.
            first_chapter: number of the first part of the story.
        """
        chapter = first_chapter
        for number, step in enumerate(steps, first):
            self.current = f"step {number} ({step.title})"
            self._screen.step(number, step.title)
            if step.chapter:
                self._screen.chapter(chapter, step.chapter)
                chapter += 1
            await step.run()
            self._screen.show(await self._status())
            self._screen.print_device(is_in_story=step.shows_device)
            await self._screen.pause()
