"""What gpumand.client is said to have, and what importing it costs those who want only a part."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gpumand.client


@pytest.mark.parametrize("name", gpumand.client.__all__)
def test_every_name_can_be_had(name: str) -> None:
    assert getattr(gpumand.client, name).__name__ == name
    assert name in dir(gpumand.client)


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"gpumand\.client.*Lease"):
        _ = gpumand.client.Lease  # type: ignore[attr-defined]


def test_star_brings_all_names() -> None:
    names: dict[str, object] = {}
    exec("from gpumand.client import *", names)
    assert names.keys() >= set(gpumand.client.__all__)


def test_who_only_calls_imports_nothing_that_holds_leases() -> None:
    program = "import gpumand.client.calls, sys; print(*(name for name in sys.modules if name.startswith('gpumand')))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    parts = {"client", "held_lease", "lease_watch", "loop_thread", "sync", "values"}
    assert {f"gpumand.client.{part}" for part in parts}.isdisjoint(ran.stdout.split())
