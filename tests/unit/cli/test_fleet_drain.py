"""``gpumanctl --fleet drain`` says what the drain is worth."""

from __future__ import annotations

from typing import Any

import pytest

from gpumand.cli.app import gpumanctl
from gpumand.cli.fleet.api import FleetApi


def drained(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], *arguments: str) -> None:
    monkeypatch.setattr(FleetApi, "post", lambda *_: answer)
    with pytest.raises(SystemExit) as caught:
        gpumanctl.main(["--fleet", *arguments])
    assert not caught.value.code


def test_drain_that_the_store_does_not_keep_is_said_to_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drained(monkeypatch, {"host": "gpu2", "drain": True, "lasting": False}, "drain", "gpu2")
    printed = capsys.readouterr()
    assert "gpu2 is drained" in printed.out
    assert "the drain ends when gpumand-fleet restarts there" in printed.err
    assert "gpumanctl --fleet drain gpu2" in printed.err


@pytest.mark.parametrize("command", ["drain", "undrain"])
def test_drain_that_lasts_needs_no_more_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    drained(monkeypatch, {"host": "gpu2", "drain": command == "drain"}, command, "gpu2")
    assert capsys.readouterr().err == ""


def test_quiet_drain_still_warns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    drained(monkeypatch, {"host": "gpu2", "drain": True, "lasting": False}, "drain", "gpu2", "--quiet")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "the drain ends" in printed.err
