"""Output of ``status`` and ``list`` at fixed widths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumand.cli.output import paint
from gpumand.cli.render.show import show_lines
from gpumand.cli.render.status import (
    consumer_lines,
    device_title,
    foreign_lines,
    head,
    list_lines,
    status_lines,
)
from gpumand.cli.render.theme import Theme
from tests.unit.cli.samples import NOW, consumer, device, lease, status, waiting

PLAIN = Theme(width=80)


def shown(snapshot: dict[str, Any], theme: Theme = PLAIN) -> str:
    return paint(status_lines(snapshot, NOW, theme), theme)


WHOLE = """\
● gpumand 0.1.0: 2 of 3 consumers resident, 1 lease

GPU 0  NVIDIA GeForce RTX 4090 (nvml)  16.3 GiB of 24.0 GiB used
  [aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabbbbbbbbb##........................]
  a comfyui 13.0 GiB   b mvoice 2.8 GiB   # foreign 521 MiB   . free 7.7 GiB

CONSUMER  STATE     GPU      VRAM  FOOTPRINT  LEASES  LAST USED  NOTE
comfyui   resident  0    13.0 GiB   13.0 GiB       1  now
mvoice    resident  0     2.8 GiB    2.8 GiB       -  1 h ago    pinned
llm       unloaded  0           -   14.0 GiB       -  never

LEASE             CONSUMER  GPU  OWNER           ENDS       SINCE      REASON
f3b1c9a27e604d21  comfyui   0    render.service  in 12 min  3 min ago  poster

since start: 12 grants, 1 refusal, 4 loads (mean 8.2 s), 3 evictions (mean 0.6
  s)
"""


def test_whole_status_on_eighty_columns() -> None:
    assert shown(status()) == WHOLE


@pytest.mark.parametrize("width", [64, 80, 120])
def test_no_line_is_wider_than_the_screen(width: int) -> None:
    busy = status(
        degraded="driver-mismatch: the kernel module is 550.163 and the library is 560.35; reboot, or reload it",
        consumers=[
            consumer("a-rather-long-consumer-name", "failed", error="llm.service failed: " + "out of memory " * 20),
            consumer("llm", "loading", doing="loading for 12 s", vram_managed=True, pinned=True),
        ],
        leases=[lease(id="0123456789abcdef0123456789abcdef", reason="a long reason " * 10)],
        queue=[waiting(waiting_for="the lease of render.service on comfyui to end " * 3)],
    )
    assert [line for line in shown(busy, Theme(width=width)).splitlines() if len(line) > width] == []


def test_pipe_gets_untruncated_text() -> None:
    reason = "a long reason " * 10
    text = shown(status(leases=[lease(reason=reason)]), Theme(width=80, fit_to_width=False))
    assert reason.strip() in text


def test_unknown_is_not_shown_as_zero() -> None:
    blind = device(used_mib=None, free_mib=None, foreign_mib=None, error="nvml-hangs: no answer for 12 s")
    known = {key: value for key, value in blind.items() if value is not None}
    entry = consumer("comfyui", "resident", vram_resident_mib=13312)
    del entry["used_mib"]
    text = shown(status(devices=[known], consumers=[entry], leases=[], stats={}))
    assert "24.0 GiB, usage unknown" in text
    assert "nvml-hangs: no answer for 12 s" in text
    assert "a comfyui ~13.0 GiB" in text
    assert "comfyui   resident  0       -   13.0 GiB" in text
    assert "free" not in text


def test_device_of_unknown_size_has_no_bar() -> None:
    bare = {"index": 0, "uuid": "", "name": "", "source": "none", "sampled_usec": 0, "error": ""}
    text = shown(status(devices=[bare]))
    assert "GPU 0  unnamed device (none)  memory unknown" in text
    assert "[" not in text


def test_reserved_memory_is_drawn_between_used_and_free() -> None:
    loading = [consumer("llm", "loading", vram_resident_mib=14336, used_mib=2048, doing="loading for 3 s")]
    text = shown(
        status(
            devices=[device(used_mib=2048, free_mib=22516, reserved_mib=12288, foreign_mib=0)],
            consumers=loading,
            leases=[],
        )
    )
    bar = next(line for line in text.splitlines() if line.startswith("  ["))
    assert bar == "  [" + "a" * 6 + "░" * 38 + "." * 32 + "]"
    assert "░ reserved 12.0 GiB" in text


def test_queue_shows_what_each_request_waits_for() -> None:
    text = shown(status(queue=[waiting(), waiting(consumer="mvoice", position=2, priority=5)]))
    assert "  1  llm              0    12 s  uid 1000  mvoice is leased" in text
    assert "  2  mvoice           5    12 s  uid 1000  mvoice is leased" in text
    assert "2 waiting" in text.splitlines()[0]


def test_degraded_state_and_errors_are_shown() -> None:
    failed = consumer("llm", "failed", error="llm.service failed: exit-code")
    text = shown(status(degraded="nvml-missing: no driver", consumers=[failed]))
    assert text.splitlines()[1] == "  degraded: nvml-missing: no driver"
    assert "  llm: llm.service failed: exit-code" in text


def test_output_without_unicode_is_ascii() -> None:
    snapshot = status(devices=[device(reserved_mib=2000)], leases=[lease(reason="x" * 200)])
    assert shown(snapshot, Theme(width=80, unicode=False)).isascii()


def test_output_without_legend_has_no_headings() -> None:
    text = shown(status(), Theme(width=80, legend=False))
    assert "CONSUMER" not in text
    assert "LEASE " not in text


def test_escape_sequences_in_names_and_reasons_never_reach_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J"
    snapshot = status(
        degraded=evil,
        consumers=[consumer(evil, "resident", error=evil, doing=evil, unit=evil)],
        leases=[lease(reason=evil, owner=evil, id=evil)],
        queue=[waiting(reason=evil, waiting_for=evil)],
        devices=[device(name=evil, error=evil)],
    )
    for theme in (PLAIN, Theme(width=80, color=True)):
        text = shown(snapshot, theme)
        assert "\x07" not in text
        assert "\x1b]" not in text
        assert "\x1b[2J" not in text


def test_colors_are_used_only_if_the_theme_has_them() -> None:
    assert "\x1b[" in shown(status(), Theme(width=80, color=True))
    assert "\x1b" not in shown(status())


LIST = """\
CONSUMER  STATE     GPU  FOOTPRINT  LAST USED  PINNED  UNIT
comfyui   resident  0     13.0 GiB  now        no      comfyui.service
mvoice    resident  0      2.8 GiB  1 h ago    yes     mvoice.service
llm       unloaded  0     14.0 GiB  never      no      llm.service
"""


def test_list_shows_units() -> None:
    assert paint(list_lines(status()["consumers"], NOW, PLAIN), PLAIN) == LIST


def test_empty_list_prints_the_next_commands_or_nothing_without_headings() -> None:
    first, second = paint(list_lines([], NOW, PLAIN), PLAIN).splitlines()
    assert first == "No consumers are configured. To find and add the services of this host: gpumanctl setup"
    assert second.endswith("gpumanctl demo")
    assert list_lines([], NOW, replace(PLAIN, legend=False)) == []


def test_largest_foreign_processes_are_named_and_the_others_counted() -> None:
    firefox = {"pid": 7, "name": "fire\x1bfox", "unit": "s.scope", "uid": 1000, "user": "alice", "used_mib": 2150}
    others = [{"pid": pid, "name": "", "unit": "", "uid": 0, "user": "", "used_mib": 10} for pid in range(10, 15)]
    pipe = Theme(width=120, fit_to_width=False)
    shy = {"pid": 9, "name": "shy", "unit": "", "user": ""}

    lines = foreign_lines(device(foreign=[firefox, *others, shy]), pipe)

    (line,) = lines
    assert line.plain == (
        "  foreign: 2.1 GiB by fire\N{REPLACEMENT CHARACTER}fox (user alice, unit s.scope, pid 7), "
        "10 MiB by a process (user 0, pid 10), 10 MiB by a process (user 0, pid 11), "
        "10 MiB by a process (user 0, pid 12), and 2 more"
    )
    assert foreign_lines(device(), pipe) == []
    assert foreign_lines(device(foreign=[shy]), pipe) == []


def row(entry: dict[str, Any]) -> list[str]:
    """State, VRAM and note of a consumer in the table of the status."""
    heading, line = (line.plain for line in consumer_lines([entry], NOW, Theme(width=120)))
    start, gpu, footprint = (heading.index(title) for title in ("STATE", "GPU", "FOOTPRINT"))
    note = line[heading.index("NOTE") :] if "NOTE" in heading else ""  # an empty column is left out
    return [part.strip() for part in (line[start:gpu], line[gpu + len("GPU") : footprint], note)]


@pytest.mark.parametrize(
    ("residency", "changes", "expected"),
    [
        # Reserved for a lazy consumer: 500 MiB are a CUDA context without a model.
        ("resident", {"lazy": True, "used_mib": 0}, ["idle", "0 MiB", "loads on its first request"]),
        ("resident", {"lazy": True, "used_mib": 500}, ["idle", "500 MiB", "loads on its first request"]),
        ("resident", {"lazy": True, "used_mib": 2800}, ["resident", "2.7 GiB", ""]),
        ("resident", {"lazy": True, "used_mib": None}, ["resident", "-", ""]),
        # Unloaded, but its processes hold memory.
        (
            "unloaded",
            {"lazy": True, "used_mib": 0, "unit_state": "active"},
            ["idle", "0 MiB", "loads on its first request"],
        ),
        ("unloaded", {"lazy": True, "used_mib": 0, "unit_state": "inactive"}, ["unloaded", "-", ""]),
        ("unloaded", {"lazy": True, "used_mib": 400}, ["idle", "400 MiB", "loads on its first request"]),
        ("unloaded", {"lazy": True, "used_mib": 5000}, ["idle", "4.9 GiB", "still holds 4.9 GiB"]),
        ("unloaded", {"used_mib": 400}, ["idle", "400 MiB", "still holds 400 MiB"]),
        ("unloaded", {"used_mib": 400, "pinned": True}, ["idle", "400 MiB", "pinned; still holds 400 MiB"]),
        ("unloaded", {"lazy": True, "used_mib": 0}, ["unloaded", "-", ""]),
        ("unloaded", {"used_mib": None}, ["unloaded", "-", ""]),
        # Loaded, but nothing shows it.
        ("resident", {"used_mib": 0}, ["resident", "0 MiB", "no VRAM measured"]),
        ("parked", {"used_mib": 400}, ["parked", "400 MiB", ""]),
        ("failed", {"used_mib": 400}, ["failed", "400 MiB", ""]),
    ],
)
def test_row_of_a_consumer_does_not_contradict_itself(
    residency: str, changes: dict[str, Any], expected: list[str]
) -> None:
    assert row(consumer("comfyui", residency, **changes)) == expected


def test_idle_consumers_are_idle_in_every_view_and_not_counted_as_resident() -> None:
    idle = consumer("comfyui", "resident", used_mib=312, lazy=True, leases=1)
    left = consumer("llm", used_mib=400)
    summary = shown(status(consumers=[idle, left], leases=[])).splitlines()[0]
    assert summary.endswith(": 0 of 2 consumers resident, 0 leases")
    assert [line.plain.split()[1] for line in list_lines([idle, left], NOW, PLAIN)] == ["STATE", "idle", "idle"]


def test_show_describes_an_idle_server() -> None:
    empty: dict[str, Any] = {"learned": {}, "leases": [], "queue": [], "history": [], "plan": {}}
    idle = consumer("comfyui", used_mib=400, lazy=True)
    lines = [line.plain for line in show_lines({"consumer": idle, **empty}, NOW, PLAIN)]
    assert lines[0] == "● comfyui: idle on GPU 0, holds 400 MiB"
    assert "  note        loads on its first request" in lines
    loaded = consumer("comfyui", "resident", used_mib=2800, lazy=True, device="0,1")
    lines = [line.plain for line in show_lines({"consumer": loaded, **empty}, NOW, PLAIN)]
    assert lines[0] == "● comfyui: resident on GPUs 0 and 1, holds 2.7 GiB"
    assert "  note        its own requests load its model" in lines


def test_lease_without_a_consumer_is_shown_by_its_amount_its_program_and_what_that_holds() -> None:
    held = lease(consumer="", vram_mib=12288, all=False, program="python", owner="pid 77", used_mib=3072)
    whole = lease(id="0" * 16, consumer="", all=True, owner="pid 78")
    queued = waiting(consumer="", vram_mib=2048)
    snapshot = status(leases=[held, whole], queue=[queued], devices=[device(reserved_mib=9216)])
    text = paint(status_lines(snapshot, NOW, Theme(width=120)), Theme(width=120))
    assert "12.0 GiB   0    python (pid 77, holds 3.0 GiB)" in text
    assert "whole GPU  0    pid 78" in text
    assert "R python (reservation) 3.0 GiB" in text
    assert "1  2.0 GiB" in text


def test_escape_sequences_in_the_program_of_a_reservation_never_reach_the_terminal() -> None:
    held = lease(consumer="", vram_mib=100, program="\x1b[31mpython", used_mib=50)
    assert "\x1b" not in shown(status(leases=[held]))


def test_unit_whose_memory_is_known_as_a_whole_is_named_without_a_pid() -> None:
    whole = {"pid": 0, "unit": "user@1000.service", "used_mib": 900}
    lines = foreign_lines(device(foreign=[whole]), PLAIN)
    assert "processes of user@1000.service" in " ".join(map(str, lines))
    assert "pid" not in " ".join(map(str, lines))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("open", ""),
        ("released", ""),  # the daemon is degraded then
        ("resting", ", GPU driver closed (values of the last reading)"),
        ("asleep", ", GPU asleep (values of the last reading)"),
    ],
)
def test_summary_says_that_the_driver_rests(state: str, words: str) -> None:
    line, *_ = head(status(driver_state=state), PLAIN)
    assert line.plain == f"● gpumand 0.1.0: 2 of 3 consumers resident, 1 lease{words}"


@pytest.mark.parametrize(
    ("changes", "shown_in_brackets"),
    [
        ({"source": "nvml", "pool": "vram"}, "(nvml)"),
        ({"source": "amdgpu", "pool": "unified", "integrated": True}, "(amdgpu, uses host RAM)"),
        ({"source": "amdgpu", "pool": "vram", "integrated": True}, "(amdgpu, integrated)"),
        ({"source": "amdgpu", "asleep": True}, "(amdgpu, asleep)"),
    ],
)
def test_the_title_of_a_device_says_what_its_memory_is(changes: dict[str, Any], shown_in_brackets: str) -> None:
    assert shown_in_brackets in str(device_title(device(**changes), PLAIN)[0])


def test_a_device_says_why_the_memory_of_services_is_unknown() -> None:
    gap = "gpumand runs in a container, and driver 535.54 numbers processes as the host does. Update the driver"
    text = " ".join(shown(status(devices=[device(attribution_gap=gap)])).split())
    assert f"memory of services unknown: {gap}" in text
