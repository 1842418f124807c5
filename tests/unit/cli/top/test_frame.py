"""Frames of every size for plain values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.cli.render.theme import Theme
from gpumand.cli.top.frame import frame
from gpumand.cli.top.layout import distribute_lines
from gpumand.cli.top.model import Model
from gpumand.cli.top.pressing import press
from tests.unit.cli import samples

PLAIN = Theme(width=80, color=False)
EVICTION = {
    "at_usec": samples.NOW,
    "kind": "eviction",
    "consumer": "llm",
    "device": "0",
    "duration_usec": 800_000,
    "mib": 14336,
    "method": "http",
    "trigger": "comfyui",
    "detail": "never used",
}
FOREIGN = [
    {"pid": 7, "name": "firefox", "unit": "", "uid": 1000, "user": "alice", "used_mib": 400},
    {"pid": 8, "name": "Xorg", "unit": "", "uid": 0, "user": "root", "used_mib": 100},
    {"pid": 9, "name": "odd", "unit": ""},
]


def model(**changes: Any) -> Model:
    return replace(Model().with_status(samples.status(**changes)), recent=(EVICTION,))


def text(shown: Model, width: int = 80, height: int = 24, theme: Theme = PLAIN) -> list[str]:
    return [line.plain for line in frame(shown, samples.NOW, replace(theme, width=width), height)]


def test_screen_of_80_by_24_shows_everything() -> None:
    lines = text(model(queue=[samples.waiting()], devices=[samples.device(foreign=FOREIGN)]))
    whole = "\n".join(lines)
    assert lines[0].startswith("● gpumand 0.1.0: 2 of 3 consumers resident, 1 lease, 1 waiting")
    assert "GPU 0  NVIDIA GeForce RTX 4090 (nvml)" in lines[1]
    assert lines[2].startswith("  [aaaa")
    assert "1 firefox 400 MiB" in whole
    assert "2 Xorg 100 MiB" in whole
    assert "# other foreign 21 MiB" in whole
    for word in ("CONSUMER", "▸ comfyui", "mvoice is leased", "render.service", "evicted", "for comfyui; by http"):
        assert word in whole
    assert lines[-1] == " l=load  e=evict  p=pin  Tab=next list  ↑↓=select  Enter=details  ?=help  q=quit"


def test_key_that_quits_is_shown_on_a_narrow_screen() -> None:
    assert text(model(), width=40, height=10)[-1] == " l=load  e=evict  p=pin  ?=help  q=quit"
    colored = text(model(), width=40, height=10, theme=Theme(width=40, color=True))[-1]
    assert colored.endswith(" q quit")
    assert len(colored) <= 40


def test_selected_consumer_is_marked_and_its_error_shown() -> None:
    broken = [samples.consumer("mvoice", "failed", error="it did not start"), samples.consumer("llm")]
    lines = text(model(consumers=broken, leases=[]))
    assert any(line.startswith("▸ mvoice") for line in lines)
    assert lines[-2] == "mvoice: it did not start"
    assert text(press(model(consumers=broken, leases=[]), "j").model)[-2].startswith("0 GPUs 1  [1 consumers 2]")


def test_server_without_its_model_is_idle() -> None:
    lines = text(model(consumers=[samples.consumer("comfyui", used_mib=400, lazy=True)], leases=[]), width=100)
    assert any(line.split()[:3] == ["▸", "comfyui", "idle"] for line in lines)
    assert any(line.endswith("loads on its first request") for line in lines)


def test_question_is_shown_above_the_keys() -> None:
    assert text(press(model(leases=[]), "e").model)[-2] == "Evict comfyui? y = yes, any other key = no"


def test_long_consumer_list_scrolls_with_the_selection() -> None:
    many = [samples.consumer(f"c{number:03}") for number in range(100)]
    shown = model(consumers=many, leases=[])
    for _ in range(57):
        shown = press(shown, "j").model
    lines = text(shown)
    assert any(line.startswith("▸ c057") for line in lines)
    assert any("more" in line for line in lines)
    assert any("evicted" in line for line in lines)


def test_last_of_many_consumers_can_be_selected() -> None:
    many = [samples.consumer(f"c{number:03}") for number in range(100)]
    assert any(line.startswith("▸ c099") for line in text(press(model(consumers=many), "end").model))


def test_many_devices_leave_room_for_consumers() -> None:
    lines = text(model(devices=[samples.device(index=number) for number in range(16)]))
    assert any(line.startswith("▸ comfyui") for line in lines)


def test_missing_devices_and_consumers_are_reported() -> None:
    degraded = "nvml-library-missing: libnvidia-ml.so.1 is not installed"
    lines = text(model(devices=[], consumers=[], leases=[], degraded=degraded))
    assert f"  degraded: {degraded}" in lines
    assert "No consumers are configured." in lines


def test_last_status_is_shown_with_the_reason_when_the_daemon_is_gone() -> None:
    lines = text(replace(model(), stale_reason="gpumand left the bus"))
    assert lines[0].startswith("● gpumand left the bus; last known state:")
    assert any("comfyui" in line for line in lines)


def test_first_frame_says_that_it_waits_for_the_daemon() -> None:
    assert text(Model())[0] == "waiting for gpumand …"


def test_help_explains_every_key_within_80_columns() -> None:
    lines = text(press(model(), "?").model)
    assert not any("…" in line for line in lines)
    assert any(line.startswith("  E  ") for line in lines)


def test_screen_without_unicode_gets_ascii() -> None:
    ascii_only = replace(PLAIN, unicode=False)
    many = [samples.consumer("x" * 70 + str(number)) for number in range(50)]
    for shown in (model(), model(consumers=many), press(model(), "?").model):
        assert "\n".join(text(shown, theme=ascii_only)).isascii()


def test_adjacent_foreign_processes_have_different_shades() -> None:
    colored = Theme(width=80, color=True)
    shown = model(devices=[samples.device(foreign=FOREIGN, foreign_mib=6000)])
    shown.status["devices"][0]["foreign"][0]["used_mib"] = 4000  # type: ignore[index]  # a plain dict of this test
    bar = next(line for line in frame(shown, samples.NOW, colored, 24) if line.plain.startswith("  ["))
    assert "▒" in bar.plain
    assert "▓" in bar.plain


NAMES = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=60)


@pytest.mark.parametrize("color", [False, True])
@given(
    names=st.lists(NAMES, max_size=30, unique=True),
    size=st.tuples(st.integers(1, 140), st.integers(1, 60)),
    queue=st.integers(0, 20),
    typed=st.lists(st.sampled_from(["j", "end", "e", "?"]), max_size=3),
)
def test_frame_fits_any_size_with_any_names(
    color: bool, names: list[str], size: tuple[int, int], queue: int, typed: list[str]
) -> None:
    consumers = [samples.consumer(name, "resident", used_mib=300) for name in names]
    waiting = [samples.waiting(position=place + 1) for place in range(queue)]
    shown = model(consumers=consumers, queue=waiting)
    for key in typed:
        shown = press(shown, key).model
    width, height = size
    lines = frame(shown, samples.NOW, Theme(width=width, color=color), height)
    assert len(lines) == height
    assert all(line.cell_len <= width for line in lines)
    assert all(line.plain.isprintable() for line in lines)


@given(st.lists(st.tuples(st.integers(2, 40), st.integers(2, 6)), max_size=6), st.integers(0, 60))
def test_sections_share_all_lines_and_never_exceed_them(parts: list[tuple[int, int]], room: int) -> None:
    wanted, least = [one for one, _ in parts], [one for _, one in parts]
    heights = distribute_lines([[min(one) for one in zip(wanted, least, strict=True)], wanted], room)
    assert sum(heights) <= max(0, room)
    assert all(lines == 0 or 2 <= lines <= want for lines, want in zip(heights, wanted, strict=True))
    if sum(wanted) <= room:
        assert heights == wanted
