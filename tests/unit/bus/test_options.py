from __future__ import annotations

import pytest
from dbus_fast import Variant

from gpumand.bus.options import (
    MAX_STRING_BYTES,
    MAX_TTL_SEC,
    MAX_WITHIN,
    EvictOptions,
    LoadOptions,
    acquire_options,
    check_length,
    evict_options,
    history_query,
    load_options,
    renew_ttl_sec,
)
from gpumand.domain.errors import InvalidArgs, LimitsExceeded
from gpumand.domain.history import EntryKind, HistoryQuery
from gpumand.domain.lease import LeaseLifetime
from gpumand.domain.request import DEFAULT_TIMEOUT_SEC, AcquireOptions
from gpumand.domain.request_limits import MAX_WAIT_SEC


def test_empty_options_yield_the_defaults() -> None:
    assert acquire_options({}) == AcquireOptions()
    assert load_options({}) == LoadOptions("", DEFAULT_TIMEOUT_SEC)
    assert evict_options({}) == EvictOptions(False, DEFAULT_TIMEOUT_SEC)


def test_every_option_is_parsed() -> None:
    options = acquire_options(
        {
            "lifetime": Variant("s", "ttl"),
            "ttl_usec": Variant("t", 60_000_000),
            "timeout_usec": Variant("t", 1_500_000),
            "priority": Variant("i", -5),
            "device": Variant("s", "GPU-1"),
            "reason": Variant("s", "nightly, für Zoë"),
            "token": Variant("s", "abc"),
        }
    )
    assert options == AcquireOptions(LeaseLifetime.TTL, 60.0, 1.5, -5, "GPU-1", "nightly, für Zoë", "abc")
    assert load_options({"device": Variant("s", "1"), "timeout_usec": Variant("t", 0)}) == LoadOptions("1", 0.0)
    assert evict_options({"force": Variant("b", True)}) == EvictOptions(True, DEFAULT_TIMEOUT_SEC)
    assert evict_options({"method": Variant("s", "http")}).method == "http"


def test_amount_of_a_reservation_is_parsed_from_every_integer_type() -> None:
    for signature in "ynqiuxt":
        assert acquire_options({"vram_mib": Variant(signature, 100)}).vram_mib == 100
    assert acquire_options({"all": Variant("b", True)}).whole_device


def test_options_of_exclusive_and_nested_leases_are_parsed() -> None:
    options = acquire_options(
        {"exclusive": Variant("b", True), "yield_lease": Variant("s", "a1"), "within": Variant("as", ["b2", "c3"])}
    )
    assert (options.exclusive, options.yield_lease, options.within) == (True, "a1", ("b2", "c3"))
    on_behalf = {"on_behalf": Variant("s", "alice@gpu2")}
    assert acquire_options(on_behalf).on_behalf == load_options(on_behalf).on_behalf == "alice@gpu2"
    nothing = acquire_options({})
    assert nothing.on_behalf == ""
    assert (nothing.exclusive, nothing.yield_lease, nothing.within) == (False, "", ())


@pytest.mark.parametrize(
    "options",
    [
        {"exclusive": Variant("s", "yes")},
        {"exclusive": Variant("u", 1)},
        {"yield_lease": Variant("b", True)},
        {"on_behalf": Variant("s", "alice\n[root]")},
        {"within": Variant("s", "a1")},
        {"within": Variant("au", [1])},
    ],
)
def test_options_of_nested_leases_with_a_wrong_type_are_refused(options: dict[str, Variant]) -> None:
    with pytest.raises(InvalidArgs, match=next(iter(options))):
        acquire_options(options)


def test_leases_named_by_within_are_limited_in_number_and_length() -> None:
    assert len(acquire_options({"within": Variant("as", ["a"] * MAX_WITHIN)}).within) == MAX_WITHIN
    with pytest.raises(LimitsExceeded, match="within"):
        acquire_options({"within": Variant("as", ["a"] * (MAX_WITHIN + 1))})
    with pytest.raises(LimitsExceeded, match="within"):
        acquire_options({"within": Variant("as", ["a" * (MAX_STRING_BYTES + 1)])})


def test_history_query_selects_by_time_consumer_and_kind() -> None:
    assert history_query({}) == HistoryQuery(limit=100)
    query = history_query(
        {
            "since_usec": Variant("t", 2**64 - 1),
            "until_usec": Variant("i", 5),
            "consumer": Variant("s", "llm"),
            "kinds": Variant("as", ["load", "eviction"]),
            "limit": Variant("u", 2**32 - 1),
        }
    )
    kinds = frozenset({EntryKind.LOAD, EntryKind.EVICTION})
    assert query == HistoryQuery(2**63 - 1, 5, "llm", kinds, 1000)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kinds": Variant("as", ["loads"])}, "'load-failed'"),
        ({"kinds": Variant("s", "load")}, "a list of strings"),
        ({"limit": Variant("i", -1)}, "an integer of 0 or more"),
        ({"since": Variant("t", 1)}, "did you mean 'since_usec'"),
    ],
)
def test_invalid_history_options_are_refused(options: dict[str, Variant], words: str) -> None:
    with pytest.raises(InvalidArgs, match=words):
        history_query(options)


@pytest.mark.parametrize("lifetime", list(LeaseLifetime))
def test_every_lifetime_is_accepted(lifetime: LeaseLifetime) -> None:
    assert acquire_options({"lifetime": Variant("s", lifetime.value)}).lifetime is lifetime


@pytest.mark.parametrize("signature", list("ynqiuxt"))
def test_every_integer_type_is_accepted(signature: str) -> None:
    assert acquire_options({"timeout_usec": Variant(signature, 100)}).timeout_sec == pytest.approx(0.0001)
    assert acquire_options({"priority": Variant(signature, 100)}).priority == 100


def test_unknown_option_is_refused_with_a_suggestion() -> None:
    with pytest.raises(InvalidArgs, match="unknown option 'timeout_sec': did you mean 'timeout_usec'"):
        acquire_options({"timeout_sec": Variant("t", 1)})
    with pytest.raises(InvalidArgs, match="unknown option 'zzz': valid options are lifetime, ttl_usec"):
        acquire_options({"zzz": Variant("t", 1)})
    with pytest.raises(InvalidArgs, match="unknown option 'priority'"):
        load_options({"priority": Variant("i", 1)})
    with pytest.raises(InvalidArgs, match="unknown option 'device'"):
        evict_options({"device": Variant("s", "0")})


def test_hostile_option_name_is_shortened_and_escaped() -> None:
    with pytest.raises(InvalidArgs) as refusal:
        acquire_options({"\x1b[2J" + "x" * 1_000_000: Variant("t", 1)})
    assert len(refusal.value.message) < 300
    assert "\x1b" not in refusal.value.message


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("lifetime", Variant("i", 1), r"'lifetime' must be a string \(s\), not of type 'i'"),
        ("timeout_usec", Variant("s", "1"), r"'timeout_usec' must be an integer of 0 or more \(t\), not of type 's'"),
        ("timeout_usec", Variant("b", True), "not of type 'b'"),
        ("timeout_usec", Variant("d", 1.0), "not of type 'd'"),
        ("timeout_usec", Variant("x", -1), "0 or more"),
        ("timeout_usec", Variant("v", Variant("t", 1)), "not of type 'v'"),
        ("priority", Variant("b", True), "'priority' must be an integer"),
        ("priority", Variant("i", 101), "from -100 to 100, not 101"),
        ("priority", Variant("x", -(2**40)), "from -100 to 100"),
        ("priority", Variant("t", 2**64 - 1), "from -100 to 100"),
        ("lifetime", Variant("s", "conection"), "one of 'ttl', 'connection', 'unit', not 'conection'"),
        ("ttl_usec", Variant("t", 0), "greater than 0"),
        ("ttl_usec", Variant("t", 2**64 - 1), "at most"),
        ("ttl_usec", Variant("i", -1), "0 or more"),
        ("device", Variant("o", "/x"), "'device' must be a string"),
        ("device", Variant("as", ["0"]), "not of type 'as'"),
        ("reason", Variant("s", "a\nb"), "one line"),
        ("reason", Variant("s", "\x1b[31m"), "control characters"),
        ("token", Variant("s", "a\u2028b"), "one line"),
        ("vram_mib", Variant("u", 0), "'vram_mib' must be from 1 to 16777216, not 0"),
        ("vram_mib", Variant("t", 2**64 - 1), "from 1 to"),
        ("vram_mib", Variant("i", -1), "0 or more"),
        ("vram_mib", Variant("s", "12G"), "must be an integer"),
        ("all", Variant("u", 1), "'all' must be a boolean"),
    ],
)
def test_invalid_value_is_refused_with_the_options_name(name: str, value: Variant, expected: str) -> None:
    with pytest.raises(InvalidArgs, match=expected):
        acquire_options({name: value})


def test_ttl_option_requires_ttl_lifetime() -> None:
    with pytest.raises(InvalidArgs, match="'ttl_usec' needs lifetime 'ttl', not 'connection'"):
        acquire_options({"lifetime": Variant("s", "connection"), "ttl_usec": Variant("t", 1)})


def test_force_must_be_a_boolean() -> None:
    with pytest.raises(InvalidArgs, match=r"'force' must be a boolean \(b\), not of type 'i'"):
        evict_options({"force": Variant("i", 1)})


def test_timeout_is_capped_and_may_be_zero() -> None:
    assert acquire_options({"timeout_usec": Variant("t", 2**64 - 1)}).timeout_sec == MAX_WAIT_SEC
    assert acquire_options({"timeout_usec": Variant("t", 0)}).timeout_sec == 0.0


@pytest.mark.parametrize("name", ["device", "reason", "token", "lifetime"])
def test_long_strings_are_refused(name: str) -> None:
    with pytest.raises(LimitsExceeded, match=f"'{name}' is longer than 1024 bytes"):
        acquire_options({name: Variant("s", "x" * (MAX_STRING_BYTES + 1))})


def test_length_limit_counts_bytes() -> None:
    assert check_length("it", "é" * 512) == "é" * 512
    with pytest.raises(LimitsExceeded, match="it is longer"):
        check_length("it", "é" * 513)


def test_renewing_with_zero_repeats_the_granted_ttl() -> None:
    assert renew_ttl_sec(0) is None
    assert renew_ttl_sec(2_000_000) == 2.0
    with pytest.raises(InvalidArgs, match="at most"):
        renew_ttl_sec(int(MAX_TTL_SEC * 1e6) + 1)
