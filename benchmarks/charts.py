"""Draws charts as SVG: grouped bars, and lines on logarithmic axes; readable on light and dark backgrounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

COLORS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d", "#bab0ac")
STYLE = (
    "<style>text{font:12px sans-serif;fill:#333}line,path{stroke:#999;fill:none}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}line,path{stroke:#777}}</style>"
)


@dataclass(frozen=True, slots=True)
class Frame:
    """Size and margins of a chart, in SVG units."""

    width: int = 900
    height: int = 360
    left: int = 60
    right: int = 20
    top: int = 50
    bottom: int = 50

    @property
    def inner_width(self) -> int:
        """Width of the plot area."""
        return self.width - self.left - self.right

    @property
    def inner_height(self) -> int:
        """Height of the plot area."""
        return self.height - self.top - self.bottom


def bars(
    title: str, groups: Sequence[str], series: Mapping[str, Sequence[float]], unit: str, line_at: float = 1.0
) -> str:
    """Draw grouped bars, one color per series, with a horizontal line at the reference value."""
    frame = Frame()
    top = max(line_at, *(max(values) for values in series.values())) * 1.1
    wide = frame.inner_width / len(groups)
    each = wide * 0.8 / len(series)
    parts = [*_head(frame, title), *_legend(frame, list(series)), *_scale(frame, top, unit)]
    for number, (name, values) in enumerate(series.items()):
        for place, value in enumerate(values):
            x = frame.left + place * wide + wide * 0.1 + number * each
            height = value / top * frame.inner_height
            y = frame.height - frame.bottom - height
            label = f"<title>{escape(f'{name}, {groups[place]}: {value:.2f}')}</title>"
            box = f'x="{x:.1f}" y="{y:.1f}" width="{each * 0.92:.1f}" height="{height:.1f}"'
            parts.append(f'<rect {box} fill="{COLORS[number]}">{label}</rect>')
    for place, group in enumerate(groups):
        parts.append(_text(frame.left + (place + 0.5) * wide, frame.height - frame.bottom + 18, group, "middle"))
    y = frame.height - frame.bottom - line_at / top * frame.inner_height
    parts.append(f'<line x1="{frame.left}" x2="{frame.width - frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
    return _svg(frame, parts)


def lines(title: str, series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> str:
    """Draw lines on logarithmic axes."""
    frame = Frame()
    points = [point for values in series.values() for point in values]
    low_x, high_x = _decades([x for x, _ in points])
    low_y, high_y = _decades([y for _, y in points])

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            frame.left + (math.log10(x) - low_x) / (high_x - low_x) * frame.inner_width,
            frame.height - frame.bottom - (math.log10(y) - low_y) / (high_y - low_y) * frame.inner_height,
        )

    parts = [*_head(frame, title), *_legend(frame, list(series))]
    floor = frame.height - frame.bottom + 18
    parts += [
        _text(at(10.0**decade, 10.0**low_y)[0], floor, f"{10**decade:,}", "middle")
        for decade in range(low_x, high_x + 1)
    ]
    for decade in range(low_y, high_y + 1):
        y = at(10.0**low_x, 10.0**decade)[1]
        parts.append(
            f'<line x1="{frame.left}" x2="{frame.width - frame.right}" y1="{y:.1f}" y2="{y:.1f}" opacity=".4"/>'
        )
        parts.append(_text(frame.left - 6, y + 4, f"{10.0**decade:g}", "end"))
    for number, values in enumerate(series.values()):
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in values))
        color = f'fill="none" stroke="{COLORS[number]}"'
        parts.append(f'<polyline points="{way}" {color} stroke-width="2"/>')
    parts.append(_text(frame.left + frame.inner_width / 2, frame.height - 8, x_label, "middle"))
    parts.append(_text(8, frame.top - 8, y_label))
    return _svg(frame, parts)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _head(frame: Frame, title: str) -> list[str]:
    bottom = frame.height - frame.bottom
    return [
        _text(frame.left, 18, title),
        f'<path d="M{frame.left} {frame.top}V{bottom}H{frame.width - frame.right}"/>',
    ]


def _legend(frame: Frame, names: Sequence[str]) -> list[str]:
    parts, x = [], float(frame.left)
    for number, name in enumerate(names):
        parts.append(f'<rect x="{x:.0f}" y="26" width="10" height="10" fill="{COLORS[number]}"/>')
        parts.append(_text(x + 14, 35, name))
        x += 28 + 6 * len(name)
    return parts


def _scale(frame: Frame, top: float, unit: str) -> list[str]:
    step = 10 ** math.floor(math.log10(top)) / (4 if top < 5 * 10 ** math.floor(math.log10(top)) else 1)
    parts, value = [], 0.0
    while value <= top:
        y = frame.height - frame.bottom - value / top * frame.inner_height
        parts.append(_text(frame.left - 6, y + 4, f"{value:g}{unit}", "end"))
        value += step
    return parts


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(frame: Frame, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {frame.width} {frame.height}" width="{frame.width}" height="{frame.height}"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', STYLE, *parts, "</svg>", ""])
