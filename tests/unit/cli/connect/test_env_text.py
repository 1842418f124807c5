"""Variables are added to environment files and to start files of shells, and can be taken out again."""

from __future__ import annotations

import pytest

from gpumand.cli.connect.env_text import with_shell_lines, with_variables
from gpumand.cli.connect.marked_lines import BEGIN, END, HOW, OFF, without_marked


def added(*lines: str) -> str:
    return "".join(f"{one}\n" for one in (BEGIN, HOW, *lines, END))


def test_variables_are_added_at_the_end() -> None:
    assert with_variables("A=1\n", {"B": "2", "C": "3"}) == "A=1\n" + added("B=2", "C=3")


@pytest.mark.parametrize("line", ["B=old", "export B=old", "  B='old'", "\texport  B="])
def test_a_line_that_sets_the_variable_becomes_a_comment(line: str) -> None:
    assert with_variables(f"{line}\n", {"B": "2"}) == f"{OFF}{line}\n" + added("B=2")


@pytest.mark.parametrize("line", ["# B=old", "BB=1", "AB=1", "B = 1", "echo B=1"])
def test_other_lines_stay(line: str) -> None:
    assert with_variables(f"{line}\n", {"B": "2"}) == f"{line}\n" + added("B=2")


def test_contradicting_variables_become_comments_without_a_new_value() -> None:
    text = with_variables("OLD=1\nKEPT=1\n", {"NEW": "2"}, replaced=("OLD",))

    assert text == f"{OFF}OLD=1\nKEPT=1\n" + added("NEW=2")


def test_lines_of_a_shell_are_added_at_the_end_and_turn_none_off() -> None:
    assert with_shell_lines("export B=1\n", ["export B=2"]) == "export B=1\n" + added("export B=2")


@pytest.mark.parametrize("text", ["A=1\nB=old\n", "A=1\r\nexport B=old\r\n", ""])
def test_taking_the_variables_out_restores_the_file(text: str) -> None:
    changed = with_variables(text, {"B": "2"})

    assert changed.count("\r\n") == (changed.count("\n") if "\r\n" in text else 0)
    assert without_marked(changed) == text
