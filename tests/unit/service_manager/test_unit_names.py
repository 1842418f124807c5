from __future__ import annotations

import pytest

from gpumand.bus.connection import BusError, BusTimeout
from gpumand.ports import UnitFailed
from gpumand.service_manager.failures import unit_failed
from gpumand.service_manager.unit_names import require_unit_name


@pytest.mark.parametrize(
    "unit",
    ["ollama.service", "vllm@7b.service", "dev-sda\\x2d1.device", "-.slice", "a:b_c-1.socket", "user@1000.service"],
)
def test_valid_unit_names_are_accepted(unit: str) -> None:
    require_unit_name(unit)


@pytest.mark.parametrize(
    "unit",
    [
        "",
        "ollama",
        "ollama.exe",
        "../x.service",
        "a b.service",
        "x.service\n",
        "vllm@.service",
        "é.service",
        "@a.service",
        "a" * 300 + ".service",
    ],
)
def test_invalid_unit_names_are_refused(unit: str) -> None:
    with pytest.raises(UnitFailed, match="not the name of a unit") as failed:
        require_unit_name(unit)
    assert failed.value.reason == "bad-name"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("org.freedesktop.systemd1.NoSuchUnit", "not-found"),
        ("org.freedesktop.systemd1.UnitMasked", "masked"),
        ("org.freedesktop.systemd1.BadUnitSetting", "bad-setting"),
        ("org.freedesktop.systemd1.TransactionIsDestructive", "shutting-down"),
        ("org.freedesktop.systemd1.ShuttingDown", "shutting-down"),
        ("org.freedesktop.DBus.Error.AccessDenied", "denied"),
        ("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", "denied"),
        ("org.freedesktop.DBus.Error.ServiceUnknown", "unavailable"),
        ("org.freedesktop.DBus.Error.Spawn.ChildExited", "unavailable"),
        ("org.freedesktop.systemd1.SomethingNew", "failed"),
    ],
)
def test_systemd_errors_are_mapped_to_reasons(error: str, reason: str) -> None:
    failure = unit_failed("a.service", "start", BusError(error, "because"))
    assert failure.reason == reason
    assert "a.service" in str(failure)
    assert "because" in str(failure)


def test_systemd_timeout_is_unavailable() -> None:
    assert unit_failed("a.service", "stop", BusTimeout("slow")).reason == "unavailable"
