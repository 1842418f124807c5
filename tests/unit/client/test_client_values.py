"""Plain answers of the daemon become values, and invalid answers a Mismatch."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.bus.signal_matches import Signal
from gpumand.client.errors import Mismatch
from gpumand.client.parsing import event_of, grant_of, history_of, outcome_of, plan_of, status_of
from gpumand.client.values import Eviction, HeldProcess, LeaseEnded, LeaseGranted, RunningChanged
from tests.unit.cli import samples

GRANT = {"consumer": "comfyui", "device": "0", "waited_usec": 1_500_000, "evicted": ["ollama"], "loaded": True}


def test_grant_is_converted() -> None:
    grant = grant_of("f00d", GRANT | {"expires_usec": 1_700_000_000_000_000, "endpoint": "http://127.0.0.1:8188"})
    assert (grant.id, grant.consumer, grant.device, grant.endpoint) == ("f00d", "comfyui", "0", "http://127.0.0.1:8188")
    assert (grant.evicted, grant.loaded, grant.waited_sec) == (("ollama",), True, 1.5)
    assert grant.expires_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


def test_grant_without_expiry_never_expires() -> None:
    assert grant_of("f00d", GRANT | {"expires_usec": 0}).expires_at is None


def test_keys_of_a_later_daemon_are_ignored() -> None:
    assert grant_of("f00d", GRANT | {"colour": "blue"}).consumer == "comfyui"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"consumer": 3}, "consumer is not a string"),
        ({"loaded": 1}, "loaded is not a boolean"),
        ({"waited_usec": True}, "waited_usec is not an integer"),
        ({"waited_usec": "soon"}, "waited_usec is not an integer"),
        ({"evicted": "ollama"}, "evicted is not a list"),
        ({"evicted": [b"ollama"]}, "evicted is not a list of strings"),
        ({"expires_usec": 2**64 - 1}, "expires_usec is not a valid time"),
    ],
)
def test_grant_with_a_wrong_type_is_a_mismatch_with_the_key(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Mismatch, match=f"the grant: {words}"):
        grant_of("f00d", GRANT | changes)


def test_missing_key_is_named() -> None:
    with pytest.raises(Mismatch, match="the grant: consumer is missing"):
        grant_of("f00d", {})


@pytest.mark.parametrize("answer", [None, 3, [], "status"])
def test_answer_that_is_not_a_dictionary_is_a_mismatch(answer: object) -> None:
    with pytest.raises(Mismatch, match="the status is not a dictionary"):
        status_of(answer)


def test_processes_of_consumers_and_reservations_are_converted() -> None:
    plain = samples.status(queue=[samples.waiting(id="c0ffee")])
    first = {"pid": 7, "name": "python3", "unit": "a.service", "uid": 998, "user": "comfy", "used_mib": 9}
    plain["devices"][0]["processes"] = [first | {"consumers": ["a", "b"]}, {"pid": 8, "lease": "f00d"}]
    status = status_of(plain)
    assert status.queue[0].id == "c0ffee"
    assert status.devices[0].processes == (
        HeldProcess(7, "python3", "a.service", 998, "comfy", 9, "", ("a", "b")),
        HeldProcess(8, "", "", None, "", None, "", (), "f00d"),
    )
    assert status_of(samples.status()).devices[0].processes == ()


def test_status_is_converted() -> None:
    plain = samples.status()
    status = status_of(plain)
    assert [one.name for one in status.consumers] == [one["name"] for one in plain["consumers"]]
    assert [one.total_mib for one in status.devices] == [one.get("total_mib") for one in plain["devices"]]
    assert [one.id for one in status.leases] == [one["id"] for one in plain["leases"]]
    first = status.consumers[0]
    assert status.consumer(first.name) is first
    assert status.consumer("missing") is None


def test_unknown_is_none_and_not_zero() -> None:
    device = {"index": 0, "uuid": "GPU-1", "name": "Card"}
    status = status_of({"version": "1", "degraded": "", "devices": [device]})
    assert (status.devices[0].free_mib, status.devices[0].sampled_at) == (None, None)
    assert status.stats == {}


def test_error_within_an_entry_has_its_path() -> None:
    with pytest.raises(Mismatch, match="an entry of the status's devices: index is missing"):
        status_of({"version": "1", "degraded": "", "devices": [{}]})


def test_plan_is_converted() -> None:
    plain = samples.plan()
    plan = plan_of(plain)
    assert (plan.verdict, plan.message) == (plain["verdict"], plain["message"])
    assert [one.consumer for one in plan.evictions] == [one["consumer"] for one in plain["evictions"]]
    assert (plan.expected_sec, plan.victims_sec) == (None, None)
    timed = plan_of(plain | {"expected_usec": 12_500_000, "victims_usec": 0})
    assert (timed.expected_sec, timed.victims_sec) == (12.5, 0.0)


def test_outcome_is_converted() -> None:
    outcome = outcome_of({"consumer": "ollama", "changed": True, "freed_mib": 6144, "duration_usec": 250_000})
    assert (outcome.freed_mib, outcome.duration_sec, outcome.evicted) == (6144, 0.25, ())


def test_missing_history_fields_are_none_or_empty() -> None:
    (entry,) = history_of([{"at_usec": 1_000_000, "kind": "refusal", "consumer": "ollama"}])
    assert (entry.duration_sec, entry.freed_mib, entry.uid, entry.lease) == (None, None, None, "")
    assert entry.at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


def signal(member: str, *body: Any) -> Signal:
    return Signal(":1.1", "/org/gpumand1", "org.gpumand1.Manager", member, body)


def test_signals_are_converted_to_events() -> None:
    details = {"expected_mib": 6144, "duration_usec": 500_000, "why": "least recently used"}
    eviction = event_of(signal("EvictionOccurred", "ollama", "0", 6144, "http", "comfyui", details))
    assert isinstance(eviction, Eviction)
    assert (eviction.succeeded, eviction.duration_sec, eviction.why) == (True, 0.5, "least recently used")
    failed = event_of(signal("EvictionFailed", "ollama", "0", 0, "http", "comfyui", {"error": "it stays"}))
    assert isinstance(failed, Eviction)
    assert (failed.succeeded, failed.deferred, failed.error) == (False, False, "it stays")
    deferred = event_of(
        signal("EvictionDeferred", "ollama", "0", 0, "http", "comfyui", {"error": "it serves a client"})
    )
    assert isinstance(deferred, Eviction)
    assert (deferred.succeeded, deferred.deferred, deferred.error) == (False, True, "it serves a client")
    assert event_of(signal("LeaseGranted", "f00d", "ollama")) == LeaseGranted("f00d", "ollama")
    assert event_of(signal("LeaseEnded", "f00d", "ollama", "revoked")) == LeaseEnded("f00d", "ollama", "revoked")
    assert event_of(signal("NameOwnerChanged", "org.gpumand1", ":1.1", "")) == RunningChanged(False)


def test_unknown_signal_is_ignored() -> None:
    assert event_of(signal("SunRose", 7)) is None


@pytest.mark.parametrize("body", [(), ("f00d",), ("f00d", 3), ("f00d", "ollama", "more")])
def test_signal_with_wrong_arguments_is_a_mismatch(body: tuple[Any, ...]) -> None:
    with pytest.raises(Mismatch, match="the signal LeaseGranted"):
        event_of(signal("LeaseGranted", *body))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(samples.plan())), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(["consumer", "devices", "version", "degraded", "consumers", "leases", "queue", "stats"]), PLAIN
    )
)
def test_any_answer_becomes_a_value_or_a_mismatch(answer: dict[str, Any]) -> None:
    for parse in (status_of, plan_of, outcome_of, lambda plain: grant_of("f00d", plain), lambda p: history_of([p])):
        with contextlib.suppress(Mismatch):
            parse(answer)
