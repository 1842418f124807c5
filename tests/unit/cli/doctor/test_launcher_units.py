"""The doctor warns of a consumer whose unit is not its own: an eviction would stop cron, or every login."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.cli.doctor.finding import Severity
from tests.unit.cli.doctor.healthy_host import HEALTHY, findings, settings, spec, unit


@pytest.mark.parametrize("name", ["cron.service", "ssh.service", "pm2-root.service"])
def test_a_unit_that_starts_other_programs_is_a_warning(name: str) -> None:
    config = settings(spec("mvoice", unit=name), spec("comfyui"))
    (found,) = findings(replace(HEALTHY, config=config, units={**HEALTHY.units, name: unit(name)}), "unit names")
    assert (found.severity, found.what) == (Severity.WARNING, f"mvoice: {name} starts other programs too")
    assert found.fix == "write a unit for the server alone, and name it at [consumers.mvoice] unit"
