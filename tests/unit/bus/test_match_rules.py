from __future__ import annotations

import pytest

from gpumand.bus.signal_matches import MatchRule, Signal

SIGNAL = Signal(":1.7", "/org/x/y", "org.x.I", "Changed", ("first", 2))


def test_a_rule_names_only_what_is_given() -> None:
    rule = MatchRule(sender="org.x", member="Changed", arg0="it's")
    assert rule.text() == "type='signal',sender='org.x',member='Changed',arg0='it'\\''s'"
    assert MatchRule().text() == "type='signal'"


@pytest.mark.parametrize(
    "rule",
    [
        MatchRule(),
        MatchRule(path="/org/x/y", interface="org.x.I", member="Changed", arg0="first"),
        MatchRule(path_namespace="/org/x"),
        MatchRule(path_namespace="/org/x/y"),
        MatchRule(path_namespace="/"),
    ],
)
def test_a_signal_that_fits_is_admitted(rule: MatchRule) -> None:
    assert rule.admits(SIGNAL)


@pytest.mark.parametrize(
    "rule",
    [
        MatchRule(path="/org/x"),
        MatchRule(interface="org.x.J"),
        MatchRule(member="Gone"),
        MatchRule(arg0="second"),
        MatchRule(path_namespace="/org/x/y/z"),
        MatchRule(path_namespace="/org/x/"),
        MatchRule(path_namespace="/org/xx"),
    ],
)
def test_a_signal_that_does_not_fit_is_not(rule: MatchRule) -> None:
    assert not rule.admits(SIGNAL)


def test_a_signal_without_arguments_has_no_arg0() -> None:
    assert not MatchRule(arg0="x").admits(Signal(":1.7", "/", "i", "m", ()))
    assert not MatchRule(arg0="2").admits(Signal(":1.7", "/", "i", "m", (2,)))
