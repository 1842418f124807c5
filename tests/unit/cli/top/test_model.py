"""Keys change the model and start actions."""

from __future__ import annotations

from typing import Any

import pytest

from gpumand.cli.top import keys
from gpumand.cli.top.model import Command, Model, Verb
from gpumand.cli.top.pressing import press
from tests.unit.cli import samples


def model(**changes: Any) -> Model:
    """comfyui (leased) is selected; mvoice is pinned, llm is not loaded."""
    return Model().with_status(samples.status(**changes))


def after(start: Model, *typed: str) -> Model:
    """The model after the given keys."""
    for key in typed:
        start = press(start, key).model
    return start


def test_first_consumer_is_selected_at_start() -> None:
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
def test_keys_select_a_consumer(typed: tuple[str, ...], selected: str) -> None:
    assert after(model(), *typed).selected == selected


def test_selection_stays_when_other_consumers_change() -> None:
    chosen = after(model(), "j")
    fewer = [samples.consumer("new"), samples.consumer("mvoice")]
    assert chosen.with_status(samples.status(consumers=fewer)).selected == "mvoice"


def test_next_consumer_is_selected_and_the_question_closed_when_the_selected_one_goes() -> None:
    prompt = after(model(), "j", "E")
    assert prompt.question is not None
    gone = prompt.with_status(samples.status(consumers=[samples.consumer("comfyui"), samples.consumer("llm")]))
    assert (gone.selected, gone.question) == ("llm", None)


def test_load_needs_no_confirmation() -> None:
    step = press(after(model(), keys.END), "l")
    assert step.command == Command(Verb.LOAD, "llm")
    assert step.model.message.text == "loading llm …"


def test_evict_asks_for_confirmation_and_only_y_confirms() -> None:
    free = model(leases=[])
    prompt = press(free, "e")
    assert prompt.command is None
    assert prompt.model.question is not None
    assert prompt.model.question.text == "Evict comfyui?"
    assert press(prompt.model, "y").command == Command(Verb.EVICT, "comfyui")
    for key in ("n", keys.ENTER, keys.ESCAPE, "e", " "):
        refused = press(prompt.model, key)
        assert (refused.command, refused.model.question) == (None, None)
        assert refused.model.message.text == "cancelled"


def test_evict_of_a_leased_or_pinned_consumer_names_the_key_for_force() -> None:
    leased, pinned = press(model(), "e").model, press(after(model(), "j"), "e").model
    assert leased.message.text == "comfyui is leased by render.service; press E to evict it by force"
    assert pinned.message.text == "mvoice is pinned; press E to evict it by force"
    assert leased.question is pinned.question is None


def test_force_names_the_leases_it_revokes() -> None:
    prompt = press(model(), "E").model
    assert prompt.question is not None
    assert prompt.question.text == "Evict comfyui by force and revoke 1 lease held by render.service?"
    assert press(prompt, "y").command == Command(Verb.FORCE, "comfyui")


def test_evict_of_an_unloaded_consumer_does_nothing() -> None:
    step = press(after(model(), keys.END), "e")
    assert (step.command, step.model.question, step.model.message.text) == (None, None, "llm is not loaded")


def test_evict_of_an_unloaded_consumer_that_holds_memory_asks_for_confirmation() -> None:
    idle = model(consumers=[samples.consumer("llm", used_mib=400)], leases=[])
    prompt = press(idle, "e").model
    assert prompt.question is not None
    assert press(prompt, "y").command == Command(Verb.EVICT, "llm")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (2, "revoke 2 leases held by 0.service and 1.service?"),
        (4, "revoke 4 leases held by 0.service, 1.service, 2.service and 1 other?"),
        (5, "revoke 5 leases held by 0.service, 1.service, 2.service and 2 others?"),
    ],
)
def test_leases_to_revoke_are_counted_and_the_first_owners_named(number: int, text: str) -> None:
    leases = [samples.lease(owner=f"{place}.service") for place in range(number)]
    prompt = press(model(leases=leases), "E").model
    assert prompt.question is not None
    assert prompt.question.text.endswith(text)


def test_p_pins_and_unpins() -> None:
    assert press(model(), "p").command == Command(Verb.PIN, "comfyui")
    assert press(after(model(), "j"), "p").command == Command(Verb.UNPIN, "mvoice")


@pytest.mark.parametrize("key", ["q", keys.ESCAPE, keys.INTERRUPT])
def test_keys_that_quit(key: str) -> None:
    assert press(model(), key).command == Command(Verb.QUIT)


def test_ctrl_c_quits_also_while_a_question_or_help_is_open() -> None:
    assert press(after(model(leases=[]), "e"), keys.INTERRUPT).command == Command(Verb.QUIT)
    assert press(after(model(), "?"), keys.INTERRUPT).command == Command(Verb.QUIT)


def test_any_key_closes_help_and_does_nothing_else() -> None:
    step = press(after(model(), "?"), "l")
    assert (step.command, step.model.help) == (None, False)


def test_keys_do_nothing_without_consumers() -> None:
    for key in ("j", "k", "l", "e", "E", "p", keys.END, "?", "x"):
        assert press(Model(), key).command is None
        assert press(Model().with_status(samples.status(consumers=[])), key).command is None


def test_hostile_names_are_sanitized_in_questions() -> None:
    bad = samples.status(consumers=[samples.consumer("a\x1b[2Jb", "resident")], leases=[])
    prompt = press(Model().with_status(bad), "e").model
    assert prompt.question is not None
    assert "\x1b" not in prompt.question.text
    assert prompt.question.command.target == "a\x1b[2Jb"
