"""What keys do."""

from __future__ import annotations

from typing import Any

import pytest

from gpumand.cli.top import keys
from gpumand.cli.top.model import Command, Model, Verb, press
from tests.unit.cli import samples


def model(**changes: Any) -> Model:
    """comfyui (leased) is chosen; mvoice is pinned, llm is not loaded."""
    return Model().with_status(samples.status(**changes))


def after(start: Model, *typed: str) -> Model:
    for key in typed:
        start = press(start, key).model
    return start


def test_the_first_consumer_is_chosen_first() -> None:
    assert model().selected == "comfyui"


@pytest.mark.parametrize(
    ("typed", "selected"),
    [
        ((keys.DOWN,), "mvoice"),
        (("j", "j"), "llm"),
        (("j", "j", "j"), "llm"),
        (("j", "k", "k"), "comfyui"),
        ((keys.END,), "llm"),
        ((keys.PAGE_DOWN, keys.UP), "mvoice"),
        ((keys.END, keys.HOME), "comfyui"),
    ],
)
def test_keys_choose_a_consumer(typed: tuple[str, ...], selected: str) -> None:
    assert after(model(), *typed).selected == selected


def test_who_is_chosen_stays_so_when_others_come_and_go() -> None:
    chosen = after(model(), "j")
    fewer = [samples.consumer("new"), samples.consumer("mvoice")]
    assert chosen.with_status(samples.status(consumers=fewer)).selected == "mvoice"


def test_when_the_chosen_one_goes_its_neighbour_is_chosen_and_no_question_stands() -> None:
    asked = after(model(), "j", "E")
    assert asked.question is not None
    gone = asked.with_status(samples.status(consumers=[samples.consumer("comfyui"), samples.consumer("llm")]))
    assert (gone.selected, gone.question) == ("llm", None)


def test_load_is_done_at_once() -> None:
    step = press(after(model(), keys.END), "l")
    assert step.command == Command(Verb.LOAD, "llm")
    assert step.model.message.text == "loading llm …"


def test_evict_asks_and_only_y_means_yes() -> None:
    free = model(leases=[])
    asked = press(free, "e")
    assert asked.command is None
    assert asked.model.question is not None
    assert asked.model.question.text == "Evict comfyui?"
    assert press(asked.model, "y").command == Command(Verb.EVICT, "comfyui")
    for key in ("n", keys.ENTER, keys.ESCAPE, "e", " "):
        refused = press(asked.model, key)
        assert (refused.command, refused.model.question) == (None, None)
        assert refused.model.message.text == "nothing was done"


def test_evict_of_a_leased_or_pinned_one_says_which_key_it_takes() -> None:
    leased, pinned = press(model(), "e").model, press(after(model(), "j"), "e").model
    assert leased.message.text == "comfyui is leased by render.service; E evicts it by force"
    assert pinned.message.text == "mvoice is pinned; E evicts it by force"
    assert leased.question is pinned.question is None


def test_force_says_whose_leases_are_revoked() -> None:
    asked = press(model(), "E").model
    assert asked.question is not None
    assert asked.question.text == "Evict comfyui by force, and revoke 1 lease of render.service?"
    assert press(asked, "y").command == Command(Verb.FORCE, "comfyui")


def test_evict_of_what_is_not_loaded_asks_nothing() -> None:
    step = press(after(model(), keys.END), "e")
    assert (step.command, step.model.question, step.model.message.text) == (None, None, "llm is not loaded")


def test_p_pins_and_unpins() -> None:
    assert press(model(), "p").command == Command(Verb.PIN, "comfyui")
    assert press(after(model(), "j"), "p").command == Command(Verb.UNPIN, "mvoice")


@pytest.mark.parametrize("key", ["q", keys.ESCAPE, keys.INTERRUPT])
def test_keys_that_leave(key: str) -> None:
    assert press(model(), key).command == Command(Verb.QUIT)


def test_ctrl_c_leaves_also_while_a_question_stands_or_help_is_shown() -> None:
    assert press(after(model(leases=[]), "e"), keys.INTERRUPT).command == Command(Verb.QUIT)
    assert press(after(model(), "?"), keys.INTERRUPT).command == Command(Verb.QUIT)


def test_help_is_left_by_any_key_which_then_does_nothing_else() -> None:
    step = press(after(model(), "?"), "l")
    assert (step.command, step.model.help) == (None, False)


def test_before_there_is_anything_no_key_does_harm() -> None:
    for key in ("j", "k", "l", "e", "E", "p", keys.END, "?", "x"):
        assert press(Model(), key).command is None
        assert press(Model().with_status(samples.status(consumers=[])), key).command is None


def test_hostile_names_reach_no_message() -> None:
    bad = samples.status(consumers=[samples.consumer("a\x1b[2Jb", "resident")], leases=[])
    asked = press(Model().with_status(bad), "e").model
    assert asked.question is not None
    assert "\x1b" not in asked.question.text
    assert asked.question.command.consumer == "a\x1b[2Jb"
