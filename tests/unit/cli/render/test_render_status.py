"""Output of ``status`` and ``list`` at fixed widths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumand.cli.output import paint
from gpumand.cli.render.status import consumer_lines, foreign_lines, list_lines, status_lines
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


def test_empty_list_prints_a_sentence_or_nothing_without_headings() -> None:
    assert paint(list_lines([], NOW, PLAIN), PLAIN) == "No consumers are configured.\n"
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


def test_resident_lazy_consumer_without_its_model_loads_on_first_request() -> None:
    lazy = consumer("comfyui", "resident", used_mib=0, lazy=True)
    assert [line.plain for line in consumer_lines([lazy], NOW, PLAIN)][1].endswith("  loads on first request")
    # 500 MiB is a CUDA context without a model.
    assert "first request" in consumer_lines([{**lazy, "used_mib": 500}], NOW, PLAIN)[1].plain
    assert "first request" not in consumer_lines([{**lazy, "used_mib": 2800}], NOW, PLAIN)[1].plain
    assert "first request" not in consumer_lines([{**lazy, "residency": "unloaded"}], NOW, PLAIN)[1].plain
