"""The reference of the fleet's HTTP interfaces names every route, key and error."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpumand.fleet import errors
from gpumand.fleet.agent import Agent
from gpumand.fleet.calls import AcquireCall, DrainCall, LoadCall, PlaceCall, PlanCall
from gpumand.fleet.local_api import LocalApi

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "fleet-http.md").read_text(encoding="utf-8")
NOTHING: Any = SimpleNamespace()


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


async def test_every_route_is_described() -> None:
    agent, local = Agent(NOTHING, NOTHING, NOTHING, NOTHING), LocalApi(NOTHING, NOTHING, "", NOTHING, NOTHING)
    for title, routes in (("Agent", agent.routes()), ("Local interface", local.routes())):
        missing = [f"{method} {path}" for method, path in routes if f"`{method} {path}`" not in section(title)]
        assert not missing


@pytest.mark.parametrize("call", [AcquireCall, DrainCall, LoadCall, PlaceCall, PlanCall])
def test_every_key_is_described(call: type) -> None:
    missing = [name for name in call.__dataclass_fields__ if f"`{name}`" not in PAGE]  # type: ignore[attr-defined]
    assert not missing


def test_every_error_of_the_fleet_is_described_with_its_status() -> None:
    for name, kind in errors._OWN.items():
        assert f"| `{name}` | {errors.http_status(kind('x'))} |" in PAGE
