"""The container helper finds containers that Compose has renamed, and no others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpumand.domain import container as domain_container
from gpumand.root_helpers import renamed_containers
from gpumand.testing.container_engine import FakeContainer
from tests.unit.root_helpers.helper_host import Host

COMPOSE = {"com.docker.compose.project": "ai", "com.docker.compose.service": "comfyui"}


def renamed(prefix: str = "0123456789ab_", number: int = 2, **changes: Any) -> FakeContainer:
    """A container that Compose has renamed, or made under another name."""
    return FakeContainer(f"{prefix}comfyui", id=str(number) * 64, **{"labels": COMPOSE, **changes})


@pytest.mark.parametrize("prefix", ["0123456789ab_", "0123456789_", "7481b178e4c1_7481b178e4c1_7481b178e4c1_"])
async def test_container_that_compose_has_renamed_is_found_stopped_and_started(host: Host, prefix: str) -> None:
    host.docker.containers = [container := renamed(prefix, status="running")]

    state = await host.do("inspect")
    assert (state["name"], state["running"]) == (container.name, True)
    await host.do("stop")
    assert container.status == "exited"
    await host.do("start")
    assert container.status == "running"
    assert [one["id"] for one in (await host.do("list"))["containers"]] == [container.id]


async def test_renamed_container_that_runs_comes_before_the_stopped_one_of_the_name(host: Host) -> None:
    named = FakeContainer("comfyui", labels=COMPOSE)
    host.docker.containers = [named, running := renamed(status="running")]

    assert (await host.do("inspect"))["id"] == running.id
    await host.do("stop")
    assert (await host.do("inspect"))["id"] == named.id
    await host.do("start")
    assert (named.status, running.status) == ("running", "exited")


async def test_newest_of_several_stopped_containers_is_the_one_that_compose_will_start(host: Host) -> None:
    old = renamed(number=2, created=100)
    new = renamed("cccccccccccc_", number=3, created=200)
    host.docker.containers = [old, new]
    assert (await host.do("inspect"))["id"] == new.id


async def test_several_running_containers_in_place_of_one_are_neither_gone_nor_chosen_by_chance(host: Host) -> None:
    host.docker.containers = [
        renamed(status="running"),
        renamed("cccccccccccc_", number=3, status="running"),
    ]
    refused = await host.refusal("stop")
    assert refused.reason == "ambiguous"
    assert "0123456789ab_comfyui, cccccccccccc_comfyui. Stop all but one" in str(refused)
    assert not any(request.startswith("POST") for request in host.docker.requests)


@pytest.mark.parametrize(
    "other",
    [
        FakeContainer("0123456789ab_comfyui", labels={}, status="running"),
        renamed("0123456789ab_not-", status="running"),
        renamed("the_", status="running"),
        renamed("0123456789abc_", status="running"),
    ],
)
async def test_container_that_only_looks_like_a_renamed_one_is_left_alone(host: Host, other: FakeContainer) -> None:
    host.docker.containers = [other]
    assert (await host.refusal("stop")).reason == "not-found"
    assert other.status == "running"


async def test_stopped_container_without_compose_costs_no_further_request(host: Host) -> None:
    host.docker.containers = [FakeContainer("comfyui")]
    await host.do("inspect")
    assert not any("filters" in request for request in host.docker.requests)


async def test_list_of_an_engine_that_is_garbage_does_not_make_a_container_gone(host: Host) -> None:
    host.docker.listing = b"[{"
    assert (await host.refusal("inspect")).reason == "failed"
    many = json.dumps([{"Id": 7, "Names": "x"}, 5, {"Id": "2" * 64, "Names": [None, "/0123456789ab_comfyui"]}] * 1000)
    host.docker.listing = many.encode()
    assert (await host.refusal("inspect")).reason == "not-found"
    assert len(host.docker.requests) < 30, "a list of any length is followed to a few containers only"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0123456789ab_comfyui", True),
        ("0123456789_comfyui", True),
        ("7481b178e4c1_" * 20 + "comfyui", True),
        ("7481b178e4c1_" * 21 + "comfyui", False),
        ("012345678_comfyui", False),
        ("0123456789AB_comfyui", False),
        ("0123456789ab-comfyui", False),
        ("0123456789ab_comfyui2", False),
        ("comfyui", False),
    ],
)
def test_daemon_and_helper_recognise_the_same_names(name: str, expected: bool) -> None:
    assert renamed_containers.is_renamed(name, "comfyui") is expected
    assert domain_container.is_renamed(name, "comfyui") is expected


def test_daemon_and_helper_have_the_same_pattern_and_label() -> None:
    """The helper runs as root and imports nothing of gpumand but its own package, so that it has a copy."""
    assert renamed_containers.PREFIX == domain_container._COMPOSE_PREFIX
    assert renamed_containers.SERVICE_LABEL == domain_container.COMPOSE_SERVICE
    assert renamed_containers.CONTAINER_ID.pattern == domain_container.CONTAINER_ID.pattern
