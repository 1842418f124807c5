"""Plans, grants, outcomes, signals and progress as text."""

from __future__ import annotations

from typing import Any

import pytest

from gpumand.cli.output import paint
from gpumand.cli.render.lines import evict_line, grant_line, lease_line, load_line, signal_line
from gpumand.cli.render.plan import plan_lines
from gpumand.cli.render.progress import progress_line, wait_status
from gpumand.cli.render.theme import Theme
from tests.unit.cli.samples import MINUTE, NOW, consumer, lease, plan, status, waiting

PLAIN = Theme(width=80)

GRANT_PLAN = """\
llm: would be granted on GPU 0 after 1 eviction and a load
  needs 14.2 GiB including the cushion; 8.2 GiB is free
  would evict:
    comfyui, by http, frees 13.0 GiB
      used least recently: 3 min ago
  would keep:
    mvoice: not needed: without it there is room enough
"""

REFUSED_PLAN = """\
llm: would be refused on GPU 0 (InsufficientVram)
  14592 MiB are needed and 8385 MiB are free; of the rest 13312 MiB are pinned
  for comfyui and 521 MiB are held by Xorg
"""


def shown(report: dict[str, Any]) -> str:
    return paint(plan_lines(report, PLAIN), PLAIN)


def test_plan_lists_evicted_and_kept_consumers_with_reasons() -> None:
    assert shown(plan()) == GRANT_PLAN


def test_refusal_has_its_reason_and_error_name() -> None:
    message = "14592 MiB are needed and 8385 MiB are free; of the rest 13312 MiB are pinned for comfyui and 521 MiB are"
    error = "org.gpumand1.Error.InsufficientVram"
    refused = plan(verdict="refuse", error=error, message=f"{message} held by Xorg", evictions=[], spared=[])
    assert shown(refused) == REFUSED_PLAN


def test_unknown_free_memory_is_shown_as_unknown() -> None:
    blind = plan()
    del blind["free_mib"]
    assert "needs 14.2 GiB including the cushion; an unknown amount is free" in shown(blind)


def test_resident_consumer_needs_no_load() -> None:
    granted = plan(resident=True, load=False, evictions=[], spared=[])
    assert shown(granted).splitlines()[0] == "llm: would be granted on GPU 0: it is already resident"


def test_eviction_of_unknown_size_is_not_shown_as_zero() -> None:
    eviction = {"consumer": "comfyui", "method": "unit-stop", "why": ""}
    assert "comfyui, by unit-stop, frees an unknown amount" in shown(plan(evictions=[eviction]))


def test_grant_is_one_line() -> None:
    grant = {
        "consumer": "llm",
        "device": "0",
        "waited_usec": 4_100_000,
        "evicted": ["comfyui", "mvoice"],
        "loaded": True,
        "expires_usec": NOW + 15 * MINUTE,
        "endpoint": "http://127.0.0.1:9200",
    }
    expected = (
        "llm on GPU 0: loaded, granted after 4.1 s; evicted comfyui and mvoice; ends in 15 min; http://127.0.0.1:9200"
    )
    assert grant_line(grant, NOW) == expected


def test_several_devices_are_gpus() -> None:
    grant = {"consumer": "llm", "device": "0,1,2", "waited_usec": 0}
    assert grant_line(grant, NOW).startswith("llm on GPUs 0, 1 and 2: already resident")
    assert shown(plan(device="0,1")).startswith("llm: would be granted on GPUs 0 and 1 after 1 eviction")
    assert shown(plan(evictions=[])).startswith("llm: would be granted on GPU 0 without evictions and a load")


def test_lease_is_one_line_with_owner_reason_and_end() -> None:
    owned = lease(owner_uid=4294967200)
    assert lease_line(owned, NOW) == "uid 4294967200, render.service, 'poster', ends in 12 min"
    bare = lease(owner_uid=0, owner="", reason="", expires_usec=0, lifetime="connection")
    assert lease_line(bare, NOW) == "user root, ends with its owner"


def test_outcomes_are_one_line_each() -> None:
    done = {"consumer": "llm", "device": "0", "changed": True, "evicted": ["comfyui"], "duration_usec": 2_000_000}
    assert load_line(done) == "llm loaded on GPU 0 in 2.0 s; evicted comfyui"
    assert load_line(done | {"changed": False}) == "llm is already resident on GPU 0"
    gone = {"consumer": "llm", "changed": True, "method": "http", "freed_mib": 14336, "duration_usec": 300_000}
    assert evict_line(gone) == "llm evicted by http, 14.0 GiB freed in 0.3 s"
    assert evict_line(gone | {"changed": False}) == "llm is not loaded"
    assert evict_line(gone | {"freed_mib": 0}) == "llm evicted by http in 0.3 s; no freed VRAM was measured"


def test_lazy_consumer_without_its_model_is_not_reported_as_loaded() -> None:
    lazy = {"lazy": True, "residency": "resident", "used_mib": 312, "vram_resident_mib": 13312}
    made = {"consumer": "comfyui", "device": "0", "changed": True, "evicted": ["llm"], "duration_usec": 5_000}
    room = "VRAM is free for comfyui on GPU 0; its first request loads the model, and a lease keeps the VRAM free"

    assert load_line(made, lazy) == f"{room}; evicted llm"
    assert load_line({**made, "changed": False, "evicted": []}, lazy) == room
    unseen = {**lazy, "used_mib": None}
    assert load_line(made, unseen) == f"{room}; evicted llm"
    assert load_line({**made, "changed": False}, unseen).startswith("comfyui is already resident on GPU 0")
    assert load_line(made, {**lazy, "used_mib": 13000}) == "comfyui loaded on GPU 0 in 5 ms; evicted llm"
    assert load_line(made, {**lazy, "lazy": False}) == "comfyui loaded on GPU 0 in 5 ms; evicted llm"
    grant = {"consumer": "comfyui", "device": "0", "waited_usec": 5_000, "loaded": True}
    assert grant_line(grant, NOW, lazy) == "comfyui on GPU 0: its first request loads the model, granted after 5 ms"
    assert grant_line(grant, NOW, {**lazy, "used_mib": 13000}) == "comfyui on GPU 0: loaded, granted after 5 ms"


@pytest.mark.parametrize(
    ("member", "arguments", "line"),
    [
        (
            "EvictionOccurred",
            {
                "consumer": "comfyui",
                "device": "0",
                "freed_mib": 13312,
                "method": "http",
                "trigger": "llm",
                "details": {"verified": True, "duration_usec": 700_000},
            },
            "evicted comfyui from GPU 0 by http: 13.0 GiB freed in 0.7 s; to make room for llm",
        ),
        (
            "EvictionFailed",
            {
                "consumer": "comfyui",
                "device": "",
                "freed_mib": 0,
                "method": "unit-stop",
                "trigger": "manual",
                "details": {"tried": ["http", "unit-stop"], "error": "still 13312 MiB"},
            },
            "could not evict comfyui (tried http and unit-stop): still 13312 MiB; requested manually",
        ),
        (
            "EvictionDeferred",
            {
                "consumer": "comfyui",
                "device": "0",
                "freed_mib": 0,
                "method": "http",
                "trigger": "llm",
                "details": {"tried": ["http"], "error": "1 client is connected"},
            },
            "unload of comfyui from GPU 0 put off: 1 client is connected; to make room for llm",
        ),
        ("LeaseGranted", {"lease": "f3", "consumer": "llm"}, "lease on llm granted: f3"),
        ("LeaseEnded", {"lease": "f3", "consumer": "llm", "reason": "expired"}, "lease on llm ended (expired): f3"),
        (
            "LeaseDegraded",
            {"lease": "f3", "consumer": "llm", "reason": "llm was restarted"},
            "warning: lease on llm is degraded: llm was restarted: f3",
        ),
        (
            "LeaseWanted",
            {"lease": "f3", "by": "llm", "since_usec": 5},
            "a request for llm waits for the end of lease f3",
        ),
        (
            "LeaseWanted",
            {"lease": "f3", "by": "", "since_usec": 5},
            "a request for a reservation waits for the end of lease f3",
        ),
        ("LeaseRestored", {"lease": "f3", "consumer": "llm"}, "lease on llm is restored: f3"),
        (
            "PropertiesChanged",
            {"object": "/org/gpumand1/consumer/my_2dvoice", "changed": {"Residency": "loading"}, "invalidated": []},
            "my-voice is loading",
        ),
        (
            "PropertiesChanged",
            {"object": "/org/gpumand1", "changed": {"Degraded": "nvml-hangs: no answer"}, "invalidated": []},
            "gpumand is degraded: nvml-hangs: no answer",
        ),
        ("PropertiesChanged", {"object": "/org/gpumand1", "changed": {"LeaseCount": 1}, "invalidated": []}, ""),
        ("NameOwnerChanged", {"running": False}, "gpumand left the bus"),
    ],
)
def test_signals_are_one_line_each(member: str, arguments: dict[str, Any], line: str) -> None:
    assert signal_line(member, arguments) == line


def test_signal_of_a_later_version_is_shown_with_its_arguments() -> None:
    assert signal_line("Novelty", {"arguments": ["\x1b[2J"]}).startswith("Novelty ")
    assert "\x1b" not in signal_line("Novelty", {"arguments": ["\x1b[2J"]})


def test_progress_has_queue_position_and_reason() -> None:
    other = waiting(owner_uid=7, position=1)
    own_request = waiting(position=2, waited_usec=3_000_000)
    snapshot = status(queue=[other, own_request])
    assert wait_status(snapshot, "llm", 1000, 3.0) == "llm: position 2 of 2, waiting: mvoice is leased"


def test_progress_distinguishes_requests_of_one_user_by_their_age() -> None:
    old = waiting(position=1, waited_usec=60_000_000, waiting_for="old")
    new = waiting(position=2, waited_usec=1_000_000, waiting_for="new")
    assert wait_status(status(queue=[old, new]), "llm", 1000, 1.2).endswith("new")


def test_progress_shows_evictions_and_loads() -> None:
    consumers = [consumer("comfyui", "unloading"), consumer("llm", "loading")]
    assert wait_status(status(consumers=consumers), "llm", 1000, 1.0) == "llm: comfyui is unloading; loading"


def test_progress_line_fits_the_screen() -> None:
    line = progress_line("llm: " + "waiting " * 40, 12.0, 80)
    assert len(line) < 80
    assert line.endswith("… (12 s)")


def test_plan_shows_the_expected_time_where_it_is_known() -> None:
    first = shown(plan(expected_usec=12_300_000)).splitlines()[0]
    assert first.endswith("after 1 eviction and a load, in about 12 s")
    waiting = plan(verdict="wait", error="org.gpumand1.Error.Busy", message="leased", expected_usec=200_000)
    assert shown(waiting).splitlines()[0].endswith("(Busy), about 1 s")
    assert "about 5 min" in shown(plan(expected_usec=290_000_000))
    assert "about" not in shown(plan(resident=True, load=False, evictions=[], spared=[], expected_usec=0))
    assert "about" not in shown(plan())


def test_plan_distinguishes_parking_from_other_evictions() -> None:
    eviction = {"consumer": "vllm", "method": "http", "why": "", "expected_mib": 1024, "parks": True}
    assert "    parks vllm, by http, frees 1.0 GiB" in shown(plan(evictions=[eviction]))


def test_reservations_are_named_where_there_is_no_consumer() -> None:
    granted = {"consumer": "", "device": "0", "vram_mib": 12288, "all": False, "waited_usec": 0, "evicted": ["llm"]}
    assert grant_line(granted, 0) == "12.0 GiB on GPU 0: reserved after 0 ms; evicted llm"
    assert grant_line({"consumer": "", "device": "0", "all": True, "waited_usec": 0}, 0).startswith(
        "whole GPU on GPU 0"
    )
    assert signal_line("LeaseGranted", {"lease": "1", "consumer": ""}) == "reservation granted: 1"
    ended = {"lease": "1", "consumer": "", "reason": "released"}
    assert signal_line("LeaseEnded", ended) == "reservation ended (released): 1"
    evicted = {"consumer": "llm", "device": "0", "freed_mib": 9, "method": "http", "trigger": "reservation"}
    assert signal_line("EvictionOccurred", evicted).endswith("; to make room for a reservation")


def test_grant_and_load_of_a_consumer_with_a_problem_warn_of_it() -> None:
    llm = consumer("llm", "resident") | {"error": "only 50 % of its model is in VRAM."}
    granted = {"consumer": "llm", "device": "0", "loaded": True, "waited_usec": 0}

    assert grant_line(granted, 0, llm).endswith("after 0 ms. Warning: only 50 % of its model is in VRAM")
    for changed in (True, False):
        outcome = {"consumer": "llm", "changed": changed, "device": "0", "duration_usec": 0}
        assert load_line(outcome, llm).endswith(". Warning: only 50 % of its model is in VRAM")
        assert "Warning" not in load_line(outcome, consumer("llm", "resident"))
