"""Asks on the terminal. With ``--yes`` every question has its default as answer."""

from __future__ import annotations

from collections.abc import Iterable

import click

from gpumand.cli.render.format import clean


class Dialog:
    """Questions and remarks of the wizard.

    Args:
        is_asking: a person answers; otherwise the defaults count.
    """

    def __init__(self, *, is_asking: bool) -> None:
        self.is_asking = is_asking

    def heading(self, text: str) -> None:
        """Begin a step."""
        click.echo(f"\n{text}")

    def say(self, *lines: str) -> None:
        """Print lines about the step. They may quote names of other programs."""
        for line in lines:
            click.echo(f"  {clean(line)}")

    def show(self, lines: Iterable[str]) -> None:
        """Print lines as they are: a file, or the output of another command."""
        for line in lines:
            click.echo(line)

    def confirm(self, question: str, *, default: bool) -> bool:
        """Ask a question that is answered with yes or no. Raises click.Abort at the end of the input, or at Ctrl-C."""
        if not self.is_asking:
            return default
        return click.confirm(f"  {clean(question)}", default=default)

    def text(self, question: str) -> str:
        """Ask for a word; "" if there is none. Raises click.Abort."""
        if not self.is_asking:
            return ""
        answer: str = click.prompt(f"  {clean(question)}", default="", show_default=False)
        return answer.strip()
