"""Short ids of leases."""

from __future__ import annotations

from gpumand.domain.short_ids import short_id


def test_short_id_has_six_characters_or_as_many_as_tell_it_apart() -> None:
    ids = ["38a640ffce01", "38a640ff9901", "77a640ffce01"]
    assert [short_id(one, ids) for one in ids] == ["38a640ffc", "38a640ff9", "77a640"]
    assert short_id("abc", ["abc"]) == "abc"
    assert short_id("38a640", ["38a640", "38a640ff"]) == "38a640"
