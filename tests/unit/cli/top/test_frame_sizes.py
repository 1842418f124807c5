"""Whole frames of the usual sizes, and what must never happen on them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpumand.cli.render.theme import Theme
from gpumand.cli.top import keys
from gpumand.cli.top.frame import frame, screen
from gpumand.cli.top.model import Model
from gpumand.cli.top.pressing import press
from gpumand.cli.top.sections import Section
from tests.unit.cli.samples import NOW, consumer, lease
from tests.unit.cli.top import busy_host

FRAMES = Path(__file__).parent / "frames"
"""The expected frames. After a wanted change, write what the assertion shows; look at it first."""

SIZES = ((80, 24), (120, 40), (200, 60))


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def drawn(shown: Model, width: int, height: int, *, color: bool = False, unicode: bool = True) -> list[str]:
    theme = Theme(width=width, color=color, unicode=unicode)
    return [line.plain.rstrip() for line in frame(shown, NOW, theme, height)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_frame_of_a_busy_host(width: int, height: int) -> None:
    expected = (FRAMES / f"{width}x{height}.txt").read_text(encoding="utf-8").splitlines()
    assert drawn(busy_host.model(), width, height) == expected


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_no_half_of_the_screen_is_empty(width: int, height: int) -> None:
    lines = drawn(replace(busy_host.model(), recent=()), width, height)
    blank = sum(not line.replace("│", "").strip() for line in lines)
    assert blank <= height // 6
    if width >= 150:
        right = [line[width // 2 + 2 :] for line in lines[1:-3]]
        assert sum(bool(line.strip()) for line in right) > len(right) * 0.8


def test_lists_without_room_are_named_with_the_key_that_shows_them() -> None:
    shown = busy_host.model()
    lines = drawn(shown, 80, 24)
    assert "COMMAND" not in "\n".join(lines)
    assert "4 processes 5" in lines[-2]
    processes = "\n".join(drawn(press(shown, "4").model, 80, 24))
    assert "COMMAND" in processes
    assert "ollama runner" in processes


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_eight_devices_and_two_hundred_consumers_scroll(width: int, height: int) -> None:
    devices = [busy_host.device(index, processes=[], foreign=[]) for index in range(8)]
    many = [consumer(f"service-{place:03}", device=str(place % 8)) for place in range(200)]
    shown = busy_host.model(devices=devices, consumers=many)
    text = "\n".join(drawn(shown, width, height))
    assert all(f"GPU {index}" in text for index in range(8))
    assert "▸ service-000" in text
    assert "▸ service-199" in "\n".join(drawn(press(shown, keys.END).model, width, height))
    last = press(replace(shown, focus=Section.DEVICES), keys.END).model
    assert last.row(Section.DEVICES) == last.rows(Section.DEVICES)[7]
    assert "GPU 7 memory" in "\n".join(drawn(last, width, height))


def test_twenty_devices_scroll_on_a_small_screen() -> None:
    shown = busy_host.model(devices=[busy_host.device(index) for index in range(20)])
    first, last = drawn(shown, 80, 24), drawn(press(replace(shown, focus=Section.DEVICES), keys.END).model, 80, 24)
    assert any("more GPUs" in line for line in first)
    assert any("GPU 19" in line for line in last)


@pytest.mark.parametrize(("width", "height"), [*SIZES, (40, 10), (20, 5), (1, 1)])
@pytest.mark.parametrize("section", list(Section))
@pytest.mark.parametrize("page", ["", "details", "help"])
def test_hostile_names_reach_no_terminal(width: int, height: int, section: Section, page: str) -> None:
    bad = "a\x1b[2J\x1b]0;b\x07\r\n\u202ec" * 3
    process = busy_host.process(7, bad, 100, unit=bad, user=bad, container=bad, consumers=[bad])
    shown = busy_host.model(
        devices=[busy_host.device(name=bad, error=bad, processes=[process], foreign=[process])],
        consumers=[consumer(bad, "failed", error=bad, doing=bad, unit=bad, used_mib=5, used_mib_history=[1, 2])],
        leases=[lease(id=bad, consumer=bad, owner=bad, owner_user=bad, owner_program=bad, reason=bad, device=bad)],
        queue=[busy_host.queue()[0] | {"id": bad, "consumer": bad, "waiting_for": bad, "owner_user": bad}],
        degraded=bad,
        version=bad,
    )
    shown = replace(shown, focus=section, help=page == "help", details=page == "details")
    for color in (False, True):
        lines = frame(shown, NOW, Theme(width=width, color=color), height)
        assert len(lines) == height
        assert all(line.plain.isprintable() for line in lines)
        assert all(line.cell_len <= width for line in lines)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_screen_without_unicode_is_ascii(width: int, height: int) -> None:
    for key in ("", "?", keys.ENTER, "4"):
        assert "\n".join(drawn(press(busy_host.model(), key).model, width, height, unicode=False)).isascii()


def test_details_show_what_a_table_cuts() -> None:
    shown = press(press(busy_host.model(), "3").model, keys.ENTER).model
    whole = " ".join("\n".join(drawn(shown, 80, 40)).split())
    assert "gpumanctl release 91bb12 releases it" in whole
    assert "owner program aider" in whole


def test_long_details_scroll() -> None:
    long = [consumer(f"c{place}", error="word " * 400) for place in range(2)]
    shown = press(busy_host.model(consumers=long), keys.ENTER).model
    assert "more lines" in drawn(shown, 80, 24)[21]
    further = press(shown, keys.PAGE_DOWN).model
    assert further.details
    assert drawn(further, 80, 24)[0] != drawn(shown, 80, 24)[0]
    assert not press(further, "x").model.details


def test_page_ends_where_its_text_ends_however_far_it_is_scrolled() -> None:
    shown = press(press(busy_host.model(), "?").model, keys.END).model
    drawn_screen = screen(shown, NOW, Theme(width=80), 16)
    assert drawn_screen.scroll < 20
    assert any("Command lines" in line.text.plain for line in drawn_screen.lines)
    assert screen(busy_host.model(), NOW, Theme(width=80), 24).scroll == 0


def test_command_line_that_this_user_may_not_read_is_replaced_by_the_name() -> None:
    shown = replace(press(busy_host.model(), "4").model, facts={})
    text = "\n".join(drawn(shown, 120, 40))
    assert "main.py" not in text
    assert "python3" in text


def test_device_with_an_error_says_so_in_every_layout() -> None:
    broken: dict[str, Any] = {"error": "nvml-hangs: a driver call has not returned", "history": {}}
    broken |= {"used_mib": None, "free_mib": None}
    for number in (1, 8):
        shown = busy_host.model(devices=[busy_host.device(index, **broken) for index in range(number)])
        assert any("nvml-hangs" in line for line in drawn(shown, 120, 24))


def test_hot_device_is_marked() -> None:
    hot = busy_host.model(devices=[busy_host.device(temperature_celsius=82)])
    styles = [style for line in frame(hot, NOW, Theme(width=120, color=True), 40) for _, style in line._pieces]
    assert "bold red" in styles


def test_click_on_a_row_means_that_row_in_both_columns() -> None:
    shown = busy_host.model()
    drawn_screen = screen(shown, NOW, Theme(width=200), 60)
    for number, line in enumerate(drawn_screen.lines):
        for word, section, key in (
            ("whisper  ", Section.CONSUMERS, "whisper"),
            ("91bb12  comfyui", Section.LEASES, "91bb12aa33445566aa00"),
        ):
            column = line.text.plain.find(word)
            if column >= 0 and "coder is ahead" not in line.text.plain:
                hit = drawn_screen.hit(column, number)
                assert (hit.section, hit.row) == (section, key)
    assert drawn_screen.hit(5000, 1).row == drawn_screen.hit(1, 500).row == ""
