from __future__ import annotations

import pytest

from gpumand.bus.signal_matches import MatchRule, Signal

SIGNAL = Signal(":1.7", "/org/x/y", "org.x.I", "Changed", ("first", 2))


def test_rule_text_contains_only_given_fields() -> None:
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
def test_rule_selects_matching_signal(rule: MatchRule) -> None:
    assert rule.matches(SIGNAL)


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
def test_rule_rejects_other_signals(rule: MatchRule) -> None:
    assert not rule.matches(SIGNAL)


def test_arg0_needs_a_string_as_first_argument() -> None:
    assert not MatchRule(arg0="x").matches(Signal(":1.7", "/", "i", "m", ()))
    assert not MatchRule(arg0="2").matches(Signal(":1.7", "/", "i", "m", (2,)))
