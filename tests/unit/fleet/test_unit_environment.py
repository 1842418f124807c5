"""Private fleets run their agents with the environment of the unit: the benchmark measures what is installed."""

from __future__ import annotations

from pathlib import Path

from gpumand.testing.fleet import UNIT_ENVIRONMENT

UNIT = Path(__file__).parents[3] / "systemd" / "gpumand-fleet.service"


def test_agents_of_private_fleets_have_the_environment_of_the_unit() -> None:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    found = [one.removeprefix("Environment=").split() for one in lines if one.startswith("Environment=")]
    assert dict(word.split("=", 1) for words in found for word in words) == UNIT_ENVIRONMENT
