"""The names that gpumand.client exports, and which modules an import loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gpumand.client


@pytest.mark.parametrize("name", gpumand.client.__all__)
def test_every_exported_name_can_be_imported(name: str) -> None:
    assert getattr(gpumand.client, name).__name__ == name
    assert name in dir(gpumand.client)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"gpumand\.client.*Lease"):
        _ = gpumand.client.Lease  # type: ignore[attr-defined]


def test_star_import_has_all_names() -> None:
    names: dict[str, object] = {}
    exec("from gpumand.client import *", names)
    assert names.keys() >= set(gpumand.client.__all__)


def test_calls_module_does_not_import_the_lease_classes() -> None:
    program = "import gpumand.client.calls, sys; print(*(name for name in sys.modules if name.startswith('gpumand')))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    parts = {"client", "held_lease", "lease_watch", "loop_thread", "sync", "values"}
    assert {f"gpumand.client.{part}" for part in parts}.isdisjoint(ran.stdout.split())
