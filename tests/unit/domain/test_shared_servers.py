"""Consumers of one server must ask it different questions, or one counts as loaded when another one is."""

from __future__ import annotations

from typing import Any

import pytest

from gpumand.domain.consumer import ConsumerSpec, HealthRoute
from gpumand.domain.shared_servers import shared_servers

URL = "http://127.0.0.1:11434"


def spec(name: str, health: HealthRoute | None, **changes: Any) -> ConsumerSpec:
    return ConsumerSpec(name, 1000, health=health, **({"url": URL} | changes))


def ps(pointer: str) -> HealthRoute:
    return HealthRoute("/api/ps", loaded=pointer)


def groups(*specs: ConsumerSpec) -> list[tuple[str, ...]]:
    return [one.consumers for one in shared_servers(specs)]


def test_consumers_that_ask_for_their_own_model_are_distinguished() -> None:
    assert groups(spec("a", ps("/models/[name=a]")), spec("b", ps("/models/[name=b]"))) == []
    card = HealthRoute("/v1/model", loaded="/id", loaded_equals="a")
    assert groups(spec("a", card), spec("b", HealthRoute("/v1/model", loaded="/id", loaded_equals="b"))) == []


def test_the_same_question_is_found() -> None:
    assert groups(spec("a", ps("/models/[name=a]")), spec("b", ps("/models/[name=a]"))) == [("a", "b")]
    (found,) = shared_servers([spec("a", HealthRoute("/health")), spec("b", HealthRoute("/health"))])
    assert str(found) == (
        f"a and b share the server {URL}, and the health check /health gives no answer for each of them: one counts "
        "as loaded when another one is. Set model in each of them, or configure one consumer for the server"
    )


def test_a_question_about_the_whole_server_covers_every_model() -> None:
    assert groups(spec("a", ps("/models/[name=a]")), spec("all", ps("/models"))) == [("a", "all")]
    assert groups(spec("a", ps("/models/[name=a]")), spec("all", HealthRoute("/"))) == [("a", "all")]
    assert groups(spec("a", ps("/models/[name=a]")), spec("none", None)) == [("a", "none")]
    # A longer name is no part of a shorter one.
    assert groups(spec("a", ps("/models")), spec("b", ps("/models2"))) == []


def test_a_group_names_all_of_its_consumers_once() -> None:
    one, two, three = (ps(f"/models/[name={name}]") for name in "abc")
    assert groups(spec("a", one), spec("b", two), spec("c", three), spec("all", ps("/models"))) == [
        ("a", "b", "c", "all")
    ]
    assert "a, b and c share" in str(shared_servers([spec(name, None) for name in "abc"])[0])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (URL, URL, True),
        (URL, "http://localhost:11434", True),
        ("http://localhost", "http://127.0.0.1:80", True),
        ("http://HOST:1", "http://host:1", True),
        (URL, "http://127.0.0.1:11435", False),
        (URL, "https://127.0.0.1:11434", False),
        (f"{URL}/a", f"{URL}/b", False),
        ("http://unix:/run/a.sock", "http://unix:/run/a.sock", True),
        ("http://unix:/run/a.sock", "http://unix:/run/b.sock", False),
    ],
)
def test_spellings_of_one_address_are_one_server(one: str, other: str, same: bool) -> None:
    assert bool(groups(spec("a", None, url=one), spec("b", None, url=other))) is same


def test_units_tell_consumers_apart_that_take_turns_at_a_port() -> None:
    first, second = (spec(name, HealthRoute("/health"), unit=f"vllm@{name}.service") for name in "ab")
    assert groups(first, second) == []
    assert groups(first, spec("c", HealthRoute("/health"))) == []
    assert groups(first, spec("c", HealthRoute("/health"), unit=first.unit)) == [("a", "c")]


def test_one_of_the_same_preset_without_a_unit_is_a_part_of_the_server() -> None:
    server = spec("server", ps("/models"), unit="ollama.service", preset="ollama")
    assert groups(server, spec("a", ps("/models/[name=a]"), preset="ollama")) == [("server", "a")]


def test_consumers_without_url_share_no_server() -> None:
    assert groups(spec("a", None, url="", unit="a.service"), spec("b", None, url="", unit="b.service")) == []
