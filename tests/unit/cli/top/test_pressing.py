"""Keys and mouse events on every list: selection, order, details, and what ends leases and requests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.cli.top import keys, palette
from gpumand.cli.top.model import Command, Model, Verb
from gpumand.cli.top.pressing import click, press, wheel
from gpumand.cli.top.sections import Section
from tests.unit.cli import samples
from tests.unit.cli.top import busy_host


def after(start: Model, *typed: str) -> Model:
    for key in typed:
        start = press(start, key).model
    return start


def test_tab_goes_through_the_lists_that_have_rows() -> None:
    shown = busy_host.model()
    seen = []
    for _ in Section:
        shown = after(shown, keys.TAB)
        seen.append(shown.focus)
    assert seen == [*list(Section)[2:], Section.DEVICES, Section.CONSUMERS]
    assert after(shown, keys.BACK_TAB).focus is Section.DEVICES
    assert after(busy_host.model(leases=[], queue=[]), keys.TAB).focus is Section.PROCESSES
    assert after(Model(), keys.TAB).focus is Section.CONSUMERS


@pytest.mark.parametrize("section", list(Section))
def test_number_goes_to_its_list_and_arrows_move_in_it(section: Section) -> None:
    shown = after(busy_host.model(), str(list(Section).index(section)))
    assert shown.focus is section
    rows = shown.rows(section)
    assert after(shown, keys.DOWN, keys.END).row(section) == rows[-1]
    assert after(shown, keys.END, keys.HOME).row(section) == rows[0]


def test_release_asks_and_names_lease_user_and_program() -> None:
    prompt = after(busy_host.model(), "2", keys.DOWN, "r")
    assert prompt.question is not None
    assert prompt.question.text == "Release lease 91bb12 on comfyui (bob, python3)?"
    assert press(prompt, "n").command is None
    command = press(prompt, "y").command
    assert command == Command(Verb.RELEASE, "91bb12aa33445566aa00", "lease 91bb12 on comfyui")


def test_renew_needs_no_confirmation_and_is_only_for_leases_with_an_end() -> None:
    shown = after(busy_host.model(), "2")
    assert press(shown, "n").command == Command(Verb.RENEW, "38a640f1c2d3e4f5a6b7", "lease 38a640 on ollama")
    endless = press(after(shown, keys.END), "n")
    assert endless.command is None
    assert endless.model.message.is_error


def test_cancel_asks_and_is_refused_for_a_daemon_without_it() -> None:
    prompt = after(busy_host.model(), "3", "c")
    assert prompt.focus is Section.QUEUE
    assert prompt.question is not None
    assert prompt.question.text == "Cancel the request for coder (carol, aider)?"
    command = press(prompt, "Y").command
    assert command == Command(Verb.CANCEL, "c0ffee00112233445566", "the request for coder")
    old = press(after(busy_host.model(queue=[samples.waiting()]), "3"), "c")
    assert (old.command, old.model.question, old.model.message.is_error) == (None, None, True)


def test_question_is_closed_when_its_row_is_gone() -> None:
    prompt = after(busy_host.model(), "3", "c")
    assert prompt.with_status(busy_host.status()).question is not None
    assert prompt.with_status(busy_host.status(queue=busy_host.queue()[1:])).question is None
    assert prompt.with_status(busy_host.status(queue=[])).question is None


@pytest.mark.parametrize(
    ("focus", "key"), [("1", "r"), ("1", "n"), ("3", "n"), ("1", "c"), ("2", "e"), ("4", "l"), ("5", "p")]
)
def test_key_of_another_list_goes_there_first_and_acts_when_it_is_pressed_again(focus: str, key: str) -> None:
    moved = press(after(busy_host.model(), focus), key)
    assert (moved.command, moved.model.question) == (None, None)
    assert moved.model.message.text.endswith(f"press {key} again")
    again = press(moved.model, key)
    assert again.command or again.model.question or again.model.message.is_error


def test_keys_of_empty_lists_do_nothing() -> None:
    empty = busy_host.model(leases=[], queue=[], consumers=[])
    for key in ("r", "n", "c", "l", "e", "E", "p"):
        assert press(empty, key).command is None
        assert press(empty, key).model.question is None


@pytest.mark.parametrize(
    ("section", "orders"),
    [
        (
            "1",
            {
                "memory": ["comfyui", "ollama"],
                "name": ["coder", "comfyui"],
                "last use": ["ollama", "comfyui"],
                "configuration": ["ollama", "comfyui"],
            },
        ),
        ("2", {"end": ["91bb12", "38a640"], "user": ["38a640", "77aa22"], "consumer": ["77aa22", "91bb12"]}),
        ("4", {"CPU": ["0 4187", "0 4101"], "user": ["0 5001", "0 3120"], "pid": ["0 1201", "0 3120"]}),
    ],
)
def test_s_sorts_by_the_next_order(section: str, orders: dict[str, list[str]]) -> None:
    shown = after(busy_host.model(), section)
    for order, first in orders.items():
        shown = after(shown, "s")
        assert shown.message.text.endswith(f"in the order of {order}")
        assert [row.key[: len(one)] for row, one in zip(shown.rows(shown.focus), first, strict=False)] == first


def test_capital_s_goes_back_and_the_queue_has_one_order() -> None:
    shown = busy_host.model()
    assert after(shown, "s", "S").rows(Section.CONSUMERS) == shown.rows(Section.CONSUMERS)
    assert after(shown, "3", "s").message.text == "queue have one order"


def test_selection_follows_its_row_through_orders() -> None:
    shown = after(busy_host.model(), keys.END)
    assert after(shown, "s", "s").selected == shown.selected == "coder"


def test_t_changes_the_colors_and_m_the_mouse() -> None:
    shown = busy_host.model()
    for name in (*palette.NAMES[1:], palette.NAMES[0]):
        shown = after(shown, "t")
        assert shown.theme == name
    without = press(shown, "m")
    assert (without.model.mouse, without.command) == (False, Command(Verb.MOUSE))
    assert press(without.model, "m").model.mouse


def test_click_selects_and_a_second_one_shows_details() -> None:
    once = click(busy_host.model(), Section.LEASES, "91bb12aa33445566aa00").model
    assert (once.focus, once.chosen[Section.LEASES], once.details) == (Section.LEASES, "91bb12aa33445566aa00", False)
    twice = click(once, Section.LEASES, "91bb12aa33445566aa00").model
    assert twice.details
    assert not click(twice, Section.LEASES, "38a640f1c2d3e4f5a6b7").model.details


def test_click_on_a_heading_sorts() -> None:
    assert click(busy_host.model(), Section.PROCESSES, "").model.orders == {Section.PROCESSES: "CPU"}


def test_click_never_confirms_a_question() -> None:
    prompt = after(busy_host.model(), "3", "c")
    answered = click(prompt, Section.QUEUE, "c0ffee00112233445566")
    assert (answered.command, answered.model.question) == (None, None)


def test_click_outside_of_lists_closes_a_page_and_does_nothing_else() -> None:
    shown = busy_host.model()
    assert not click(after(shown, "?"), None, "").model.help
    assert click(shown, None, "").model == shown


def test_wheel_moves_the_selection_of_the_list_below_it() -> None:
    shown = wheel(busy_host.model(), Section.PROCESSES, 3).model
    assert shown.row(Section.PROCESSES) == shown.rows(Section.PROCESSES)[3]
    assert wheel(shown, None, -99).model.row(Section.PROCESSES) == shown.rows(Section.PROCESSES)[0]
    page = replace(shown, help=True)
    assert wheel(page, None, 3).model.scroll == 3
    assert wheel(page, None, -3).model.scroll == 0


def test_words_of_a_theme_are_replaced_and_mono_has_no_colors() -> None:
    from gpumand.cli.render.text import Text

    line = Text("a", "bold red").append("b", "green").append("c")
    assert [style for _, style in palette.themed([line], "mono")[0]._pieces] == ["bold", "", ""]
    assert [style for _, style in palette.themed([line], "blue")[0]._pieces] == ["bold yellow", "blue", ""]
    assert palette.themed([line], "standard") == [line]
    assert palette.next_theme("unknown") == "standard"
