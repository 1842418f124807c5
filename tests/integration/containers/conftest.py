"""The fixture of a host with two engines, which tests of the helper's operations use too."""

from __future__ import annotations

from tests.unit.root_helpers.conftest import host

__all__ = ["host"]
