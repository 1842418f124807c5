"""Lines that gpumanctl adds to settings files, and lines that it turns off, marked so that they can be taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

BEGIN = "# >>> gpumanctl connect >>>"
END = "# <<< gpumanctl connect <<<"
OFF = "# off by gpumanctl connect: "
HOW = "# Written by gpumanctl connect. To remove it: gpumanctl disconnect"


class CannotEdit(Exception):
    """A text cannot be changed safely; the message is a clause that says why."""


def marked(lines: Iterable[str], indent: str = "") -> list[str]:
    """The lines between the marks.

    Args:
        lines: what to add.
        indent: spaces before each line.
    """
    return [f"{indent}{one}" for one in (BEGIN, HOW, *lines, END)]


def turned_off(lines: Sequence[str], is_replaced: Callable[[str], bool]) -> list[str]:
    """The lines, where those that are replaced are comments."""
    return [f"{OFF}{one}" if is_replaced(one) else one for one in lines]


def without_marked(text: str) -> str:
    """The text without what gpumanctl added, and with the lines that it turned off.

    Raises:
        CannotEdit: a mark is missing, so that the end of the added lines is not known.
    """
    kept: list[str] = []
    is_inside = False
    for line in text.split("\n"):
        mark = line.strip()
        if mark in (BEGIN, END):
            if is_inside == (mark == BEGIN):
                raise CannotEdit(f"its lines between '{BEGIN}' and '{END}' are not complete any more")
            is_inside = mark == BEGIN
        elif not is_inside:
            kept.append(line.removeprefix(OFF))
    if is_inside:
        raise CannotEdit(f"the line '{END}' is missing")
    return "\n".join(kept)


def lines_of(text: str) -> tuple[list[str], str]:
    """The lines of a text without line ends, and its line end."""
    newline = "\r\n" if "\r\n" in text else "\n"
    return text.removesuffix("\n").removesuffix("\r").replace("\r\n", "\n").split("\n") if text else [], newline


def text_of(lines: Iterable[str], newline: str) -> str:
    """The text with these lines."""
    return "".join(f"{one}{newline}" for one in lines)
