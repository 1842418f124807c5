"""What a client with a limited API key may see of a status, a plan, the history and the fleet."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import pytest

from gpumand.client.errors import Busy, GpumandError, InsufficientVram, LoadFailed
from gpumand.gateway.console.limited_view import limited_fleet, limited_history, limited_plan, limited_status
from gpumand.gateway.console.queries import Queries
from gpumand.gateway.console.state_view import StateView
from gpumand.gateway.job_ends import JobEnd
from gpumand.gateway.looking import load_error
from gpumand.gateway.metrics import GatewayMetrics
from gpumand.gateway.metrics_page import metrics_page
from gpumand.gateway.refusals import Refusal
from gpumand.gateway.requests import Client, RequestTable, WaitLimits
from gpumand.gateway.routes.classes import RouteClass
from gpumand.gateway.visibility import IN_USE, reason_for, refusal_for, text_for

LIMITED = Client("lena", consumers=frozenset({"own", "twin"}), has_key=True)
ALL = Client("root")
NAMES = ("own", "twin", "secret", "own-2")


def device(**more: Any) -> dict[str, Any]:
    known = {"index": 0, "total_mib": 16000, "used_mib": 10000, "unnamed_mib": 500, "foreign_mib": 100}
    processes = {"foreign": [{"pid": 1, "name": "secret"}], "processes": [{"pid": 2, "consumers": ["secret"]}]}
    return known | processes | more


def status(**more: Any) -> dict[str, Any]:
    own = {"name": "own", "device": "0", "used_mib": 3000, "doing": "loading", "error": "secret was evicted"}
    twin = {"name": "twin", "device": "0", "used_mib": 3000, "shared_with": ["own", "secret"]}
    secret = {"name": "secret", "device": "0", "used_mib": 6000}
    return {"version": "1", "devices": [device()], "consumers": [own, twin, secret], "new_key": "secret"} | more


def test_memory_of_everything_else_is_one_sum() -> None:
    (shown,) = limited_status(status(), LIMITED)["devices"]

    # 10,000 MiB in use, of which the shared unit of own and twin has 3,000 and the driver does not attribute 500.
    assert shown["foreign_mib"] == 6500
    assert (shown["used_mib"], shown["total_mib"], shown["unnamed_mib"], shown["foreign"]) == (10000, 16000, 500, [])
    assert "processes" not in shown


def test_unknown_memory_stays_unknown() -> None:
    unknown = device()
    del unknown["used_mib"]
    (shown,) = limited_status(status(devices=[unknown]), LIMITED)["devices"]
    assert "foreign_mib" not in shown


def test_memory_of_a_consumer_on_several_devices_is_counted_on_each() -> None:
    own = {"name": "own", "device": "0", "used_mib": 3000, "used_by_device": {"0": 1000, "1": 2000}}
    shown = limited_status(status(devices=[device(), device(index=1)], consumers=[own]), LIMITED)["devices"]
    assert [one["foreign_mib"] for one in shown] == [8500, 7500]


def test_status_has_own_consumers_only_and_no_key_that_is_not_known_to_be_harmless() -> None:
    lease = {"id": "1", "owner_user": "bob", "reason": "secret", "device": "0"}
    queue = [
        {"position": 1, "consumer": "secret"},
        {"position": 2, "consumer": "own", "waiting_for": "secret", "reason": "x"},
    ]
    leases = [lease | {"consumer": "secret"}, lease | {"consumer": "own"}, lease | {"consumer": ""}]
    shown = limited_status(status(leases=leases, queue=queue, degraded="secret hangs"), LIMITED)

    assert "secret" not in str(shown)
    assert "bob" not in str(shown)
    assert [one["name"] for one in shown["consumers"]] == ["own", "twin"]
    assert shown["consumers"][0]["doing"] == "loading"
    assert shown["consumers"][1]["shared_with"] == ["own"]
    assert shown["leases"] == [{"id": "1", "consumer": "own", "device": "0"}]
    assert shown["queue"] == [{"consumer": "own", "position": 2, "waiting_for": IN_USE}]


def test_plan_sums_up_the_evictions_of_others() -> None:
    evictions = [
        {"consumer": "secret", "expected_mib": 5000, "method": "stop", "why": "secret is idle"},
        {"consumer": "twin", "expected_mib": 3000, "method": "http", "why": "for secret"},
        {"consumer": "own-2", "expected_mib": 200},
    ]
    spared = [{"consumer": "secret", "why": "pinned"}, {"consumer": "twin", "why": "secret needs it"}]
    plan = {"consumer": "own", "verdict": "grant", "evictions": evictions, "spared": spared, "message": "after secret"}
    shown = limited_plan(plan, LIMITED, NAMES)

    assert "secret" not in str(shown)
    assert [(one["consumer"], one["expected_mib"]) for one in shown["evictions"]] == [
        ("twin", 3000),
        ("other consumers", 5200),
    ]
    assert [one["consumer"] for one in shown["spared"]] == ["twin"]


@pytest.mark.parametrize("error", ["Busy", "org.gpumand1.Error.InsufficientVram"])
def test_plan_that_fails_for_others_does_not_describe_them(error: str) -> None:
    shown = limited_plan({"error": error, "message": "bob's night render holds 9 GiB"}, LIMITED, NAMES)
    assert shown["message"] == IN_USE


def test_history_names_neither_triggers_nor_clients() -> None:
    entries: list[dict[str, Any]] = [
        {"kind": "eviction", "consumer": "own", "trigger": "secret", "detail": "for secret", "mib": 5},
        {"kind": "load-failed", "consumer": "own", "detail": "exit code 1"},
        {"kind": "load-failed", "consumer": "own", "detail": "secret holds the port"},
        {"kind": "grant", "consumer": "twin", "detail": "gateway: bob", "uid": 1000},
        {"kind": "grant", "consumer": "", "detail": "reservation"},
        {"kind": "load", "consumer": "secret"},
    ]
    assert limited_history(entries, LIMITED, NAMES) == [
        {"kind": "eviction", "consumer": "own", "mib": 5, "detail": ""},
        {"kind": "load-failed", "consumer": "own", "detail": "exit code 1"},
        {"kind": "load-failed", "consumer": "own", "detail": ""},
        {"kind": "grant", "consumer": "twin", "detail": ""},
    ]


def test_hosts_of_the_fleet_have_own_consumers_only() -> None:
    row = {"id": "a" * 32, "name": "gpu2", "url": "https://10.0.0.2", "ram": 5, "queue": 7, "gpus": [{"free": 5}]}
    row["consumers"] = {"own": {"r": "resident", "queue": 2}, "secret": {"r": "resident", "queue": 5}}
    fleet = {
        "hosts": [{"state": "up", "local": False, "row": row}],
        "intents": {"secret": ["x"], "own": []},
        "store": "x",
    }
    shown = limited_fleet(fleet, LIMITED)

    assert shown is not None
    assert shown["intents"] == {"own": []}
    assert shown["hosts"][0]["row"] == {
        "id": "a" * 32,
        "name": "gpu2",
        "gpus": [{"free": 5}],
        "consumers": {"own": {"r": "resident", "queue": 2}},
        "queue": 2,
    }
    assert limited_fleet(fleet, ALL) == fleet
    assert limited_fleet(None, LIMITED) is None


@pytest.mark.parametrize(
    ("text", "is_shown"),
    [
        ("loading for 3 s", True),
        ("waits for secret", False),
        ("waits for secret.", False),
        ("(secret)", False),
        ("secretly", True),
        ("own", True),
        ("own-2 is loaded", False),
        ("my-secret", True),
    ],
)
def test_text_that_names_another_consumer_is_replaced(text: str, is_shown: bool) -> None:
    assert text_for(LIMITED, text, NAMES, "-") == (text if is_shown else "-")
    assert text_for(ALL, text, NAMES, "-") == text


def test_refusals_say_why_without_saying_for_which_client() -> None:
    busy = Refusal(429, "gpu_busy", "9 GiB are reserved for secret (user bob)", 5)
    failed = Refusal(503, "load_failed", "own: exit code 1", 30)

    hidden = refusal_for(LIMITED, busy, "own", NAMES)
    assert (hidden.status, hidden.code, hidden.retry_sec) == (429, "gpu_busy", 5)
    assert "bob" not in hidden.message
    assert IN_USE in hidden.message
    assert refusal_for(LIMITED, failed, "own", NAMES) == failed
    assert refusal_for(ALL, busy, "own", NAMES) == busy
    assert (reason_for(LIMITED, ""), reason_for(LIMITED, "bob"), reason_for(ALL, "bob")) == ("", IN_USE, "bob")


def test_message_of_a_plan_that_is_no_text_is_shown_as_text() -> None:
    assert limited_plan({"message": 7}, LIMITED, NAMES)["message"] == "7"


@pytest.mark.parametrize(
    "view",
    [
        StateView.state,
        StateView.requests,
        StateView.shown_listeners,
        Queries.history,
        Queries.plan,
        metrics_page,
    ],
)
def test_call_that_forgets_its_client_fails_instead_of_showing_everything(view: Callable[..., object]) -> None:
    parameters = signature(view).parameters
    (client,) = {"client", "viewer"} & parameters.keys()
    assert parameters[client].default is Parameter.empty


async def test_metrics_have_own_consumers_only() -> None:
    metrics, table = GatewayMetrics(), RequestTable(WaitLimits())
    for name in ("own", "secret", ""):
        entry = table.add(ALL, name, "POST", "/", RouteClass.WORK)
        entry.waited_sec = entry.answered_sec = entry.dripped_sec = 1.0
        entry.status = 499
        metrics.request_ended(entry)
        metrics.turn_opened(name)
        metrics.job_ended(name, JobEnd.IDLE)
    limited, full = metrics_page(metrics, table, 5, LIMITED), metrics_page(metrics, table, 5, ALL)

    for word in ("secret", "_gateway", "spool"):
        assert word in full
        assert word not in limited.replace("gpumand_gateway", "")
    series = {line.partition("{")[0] for line in full.splitlines() if 'consumer="own"' in line}
    assert series == {line.partition("{")[0] for line in limited.splitlines() if 'consumer="own"' in line}
    assert len(series) > 5
    assert 'gpumand_gateway_jobs_total{consumer="own",end="idle"} 1' in limited


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (None, ""),
        (LoadFailed("own: its unit failed"), "own: its unit failed"),
        # A reservation or a program has no consumer whose name could be looked for.
        (Busy("GPU 0 is leased to bob for 'nightly render'"), f"own cannot be used now: it needs {IN_USE}."),
        (InsufficientVram("GPU 0 has 900 MiB free; train.py (bob) uses 20000 MiB"), f"it needs {IN_USE}."),
    ],
)
def test_waiting_page_says_why_a_load_failed_without_the_programs_and_users_in_the_way(
    error: GpumandError | None, shown: str
) -> None:
    found = load_error(LIMITED, error, "own", NAMES)

    assert shown in found
    assert "bob" not in found
    assert load_error(ALL, error, "own", NAMES) == ("" if error is None else error.message)
