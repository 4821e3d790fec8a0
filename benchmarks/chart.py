"""Line charts as small SVG files, with nothing but the standard library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 680, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 200, 34, 44
_COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#b9770e", "#6c3483", "#566573")
_LEAST, _MOST = 1e-45, 1e45

Series = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """``lines``: label to points (x, y). ``log``: a logarithmic y axis; what lies beyond 1e±45 is drawn at the edge."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Series]
    log: bool = False

    def svg(self) -> str:
        """The picture."""
        points = [(x, self._height(y)) for line in self.lines.values() for x, y in line if math.isfinite(y)]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        left, right = min(xs), max(xs)
        low, high = min(ys), max(ys)
        pad = 0.05 * (high - low) or 0.5
        low, high = low - pad, high + pad

        def place(x: float, y: float) -> tuple[float, float]:
            across = (x - left) / ((right - left) or 1.0)
            up = (self._height(y) - low) / (high - low)
            return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)

        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            'font-family="sans-serif" font-size="11" fill="#222">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
            f'<text x="{_LEFT}" y="18" font-size="13" font-weight="bold">{escape(self.title)}</text>',
            f'<text x="{(_LEFT + WIDTH - _RIGHT) // 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(self.x)}</text>',
            f'<text transform="translate(13 {HEIGHT // 2}) rotate(-90)" text-anchor="middle">{escape(self.y)}</text>',
        ]
        for value in _decades(low, high) if self.log else _ticks(low, high):
            _, at = place(left, value)
            label = f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-") if self.log else f"{value:g}"
            parts.append(f'<path d="M{_LEFT} {at:.1f}H{WIDTH - _RIGHT}" stroke="#ddd"/>')
            parts.append(f'<text x="{_LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{label}</text>')
        for value in _ticks(left, right):
            at, _ = place(value, 1.0)
            parts.append(f'<text x="{at:.1f}" y="{HEIGHT - _BOTTOM + 15}" text-anchor="middle">{value:g}</text>')
        for index, (label, line) in enumerate(self.lines.items()):
            colour = _COLOURS[index % len(_COLOURS)]
            where = [place(x, y) for x, y in line if math.isfinite(y)]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in where if len(where) < 4]
            at = _TOP + 12 + 15 * index
            parts.append(f'<path d="M{WIDTH - _RIGHT + 12} {at - 4}h16" stroke="{colour}" stroke-width="2.5"/>')
            parts.append(f'<text x="{WIDTH - _RIGHT + 33}" y="{at}">{escape(label)}</text>')
        return "\n".join([*parts, "</svg>", ""])

    def _height(self, y: float) -> float:
        return math.log10(min(max(abs(y), _LEAST), _MOST)) if self.log else y


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers inside the range."""
    step = 10.0 ** math.floor(math.log10((high - low) or 1.0))
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if (high - low) / s <= 8)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten inside a range of exponents; with 2 and 5 times as much between them where it is short."""
    if high - low > 2:
        step = math.ceil((high - low) / 8)
        return [10.0**i for i in range(math.ceil(low / step) * step, math.floor(high) + 1, step)]
    values = [m * 10.0**i for i in range(math.floor(low), math.floor(high) + 1) for m in (1, 2, 5)]
    return [v for v in values if low <= math.log10(v) <= high]
