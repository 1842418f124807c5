"""Plans, grants, signals and progress as people read them."""

from __future__ import annotations

from typing import Any

import pytest

from gpumand.cli.output import paint
from gpumand.cli.render.lines import evict_line, grant_line, load_line, signal_line
from gpumand.cli.render.plan import plan_lines
from gpumand.cli.render.progress import progress_line, stage
from gpumand.cli.render.theme import Theme
from tests.unit.cli.samples import MINUTE, NOW, consumer, plan, status, waiting

PLAIN = Theme(width=80)

GRANT_PLAN = """\
llm: would be granted on GPU 0 after 1 eviction, by loading it
  needs 14.2 GiB with the cushion, 8.2 GiB free
  evicts:
    comfyui, by http, frees 13.0 GiB
      used least recently: 3 min ago
  spares:
    mvoice: not needed: without it there is room enough
"""

REFUSED_PLAN = """\
llm: would be refused on GPU 0 (InsufficientVram)
  14592 MiB are needed and 8385 MiB are free; of the rest 13312 MiB are pinned
  for comfyui and 521 MiB are held by Xorg
"""


def shown(report: dict[str, Any]) -> str:
    return paint(plan_lines(report, PLAIN), PLAIN)


def test_a_plan_says_whom_it_evicts_and_why_and_whom_it_spares_and_why() -> None:
    assert shown(plan()) == GRANT_PLAN


def test_a_refusal_says_why_and_by_which_error() -> None:
    message = "14592 MiB are needed and 8385 MiB are free; of the rest 13312 MiB are pinned for comfyui and 521 MiB are"
    error = "org.gpumand1.Error.InsufficientVram"
    refused = plan(verdict="refuse", error=error, message=f"{message} held by Xorg", evictions=[], spared=[])
    assert shown(refused) == REFUSED_PLAN


def test_unknown_room_is_told_as_unknown() -> None:
    blind = plan()
    del blind["free_mib"]
    assert "needs 14.2 GiB with the cushion, unknown free" in shown(blind)


def test_a_resident_consumer_needs_nothing() -> None:
    granted = plan(resident=True, load=False, evictions=[], spared=[])
    assert shown(granted).splitlines()[0] == "llm: would be granted on GPU 0: it is resident"


def test_an_eviction_of_unknown_size_is_not_told_as_zero() -> None:
    eviction = {"consumer": "comfyui", "method": "unit-stop", "why": ""}
    assert "comfyui, by unit-stop, frees an unknown amount" in shown(plan(evictions=[eviction]))


def test_a_grant_in_one_line() -> None:
    grant = {
        "consumer": "llm",
        "device": "0",
        "waited_usec": 4_100_000,
        "evicted": ["comfyui", "mvoice"],
        "loaded": True,
        "expires_usec": NOW + 15 * MINUTE,
        "endpoint": "http://127.0.0.1:9200",
    }
    expected = "llm on GPU 0: was loaded, took 4.1 s; evicted comfyui and mvoice; ends in 15 min; http://127.0.0.1:9200"
    assert grant_line(grant, NOW) == expected


def test_outcomes_in_one_line() -> None:
    done = {"consumer": "llm", "device": "0", "changed": True, "evicted": ["comfyui"], "duration_usec": 2_000_000}
    assert load_line(done) == "llm loaded on GPU 0 in 2.0 s; evicted comfyui"
    assert load_line(done | {"changed": False}) == "llm is resident on GPU 0 already"
    gone = {"consumer": "llm", "changed": True, "method": "http", "freed_mib": 14336, "duration_usec": 300_000}
    assert evict_line(gone) == "llm evicted by http, 14.0 GiB freed in 0.3 s"
    assert evict_line(gone | {"changed": False}) == "llm is not loaded"
    assert evict_line(gone | {"freed_mib": 0}) == "llm evicted by http in 0.3 s; no VRAM was seen to become free"


def test_what_only_a_request_loads_is_not_told_as_loaded() -> None:
    lazy = {"lazy": True, "residency": "resident", "used_mib": 312, "vram_resident_mib": 13312}
    made = {"consumer": "comfyui", "device": "0", "changed": True, "evicted": ["llm"], "duration_usec": 5_000}
    room = "there is room for comfyui on GPU 0; its first request loads it, and a lease keeps the room until then"

    assert load_line(made, lazy) == f"{room}; evicted llm"
    assert load_line({**made, "changed": False, "evicted": []}, lazy) == room
    unseen = {**lazy, "used_mib": None}
    assert load_line(made, unseen) == f"{room}; evicted llm"
    assert load_line({**made, "changed": False}, unseen).startswith("comfyui is resident on GPU 0 already")
    assert load_line(made, {**lazy, "used_mib": 13000}) == "comfyui loaded on GPU 0 in 5 ms; evicted llm"
    assert load_line(made, {**lazy, "lazy": False}) == "comfyui loaded on GPU 0 in 5 ms; evicted llm"
    grant = {"consumer": "comfyui", "device": "0", "waited_usec": 5_000, "loaded": True}
    assert grant_line(grant, NOW, lazy) == "comfyui on GPU 0: its first request loads it, took 5 ms"
    assert grant_line(grant, NOW, {**lazy, "used_mib": 13000}) == "comfyui on GPU 0: was loaded, took 5 ms"


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
            "could not evict comfyui (tried http and unit-stop): still 13312 MiB; asked for by hand",
        ),
        ("LeaseGranted", {"lease": "f3", "consumer": "llm"}, "lease on llm granted: f3"),
        ("LeaseEnded", {"lease": "f3", "consumer": "llm", "reason": "expired"}, "lease on llm ended (expired): f3"),
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
def test_signals_in_one_line(member: str, arguments: dict[str, Any], line: str) -> None:
    assert signal_line(member, arguments) == line


def test_a_signal_of_a_later_version_is_shown_as_it_is() -> None:
    assert signal_line("Novelty", {"arguments": ["\x1b[2J"]}).startswith("Novelty ")
    assert "\x1b" not in signal_line("Novelty", {"arguments": ["\x1b[2J"]})


def test_progress_tells_place_and_reason() -> None:
    other = waiting(owner_uid=7, position=1)
    ours = waiting(position=2, waited_usec=3_000_000)
    snapshot = status(queue=[other, ours])
    assert stage(snapshot, "llm", 1000, 3.0) == "llm: place 2 of 2, waiting: mvoice is leased"


def test_progress_tells_requests_of_one_user_apart_by_their_age() -> None:
    old = waiting(position=1, waited_usec=60_000_000, waiting_for="old")
    new = waiting(position=2, waited_usec=1_000_000, waiting_for="new")
    assert stage(status(queue=[old, new]), "llm", 1000, 1.2).endswith("new")


def test_progress_tells_evictions_and_loads() -> None:
    consumers = [consumer("comfyui", "unloading"), consumer("llm", "loading")]
    assert stage(status(consumers=consumers), "llm", 1000, 1.0) == "llm: comfyui is unloading; loading"


def test_a_progress_line_fits_the_screen() -> None:
    line = progress_line("llm: " + "waiting " * 40, 12.0, 80)
    assert len(line) < 80
    assert line.endswith("… (12 s)")


def test_a_plan_tells_parking_from_other_evictions() -> None:
    eviction = {"consumer": "vllm", "method": "http", "why": "", "expected_mib": 1024, "parks": True}
    assert "    parks vllm, by http, frees 1.0 GiB" in shown(plan(evictions=[eviction]))
