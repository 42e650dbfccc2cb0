"""Small charts. All begin at zero, and a day without a value is left empty, so that lengths can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Column", "bar", "columns", "spark"]

_EIGHTHS = " ▏▎▍▌▋▊▉"
_HEIGHTS = "▁▂▃▄▅▆▇█"
_NOTHING = "·"


def bar(value: float, largest: float, width: int = 10) -> str:
    """A horizontal bar of at most ``width`` signs; anything above zero is seen."""
    if value <= 0 or largest <= 0:
        return ""
    eighths = max(1, round(min(value / largest, 1.0) * width * 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def spark(values: Sequence[float | None], largest: float) -> str:
    """One sign per value, its height in proportion; a dot for nothing."""
    return "".join(
        _HEIGHTS[min(len(_HEIGHTS) - 1, int(value / largest * len(_HEIGHTS)))] if value and largest > 0 else _NOTHING
        for value in values
    )


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a chart that is 100 high; ``x`` and ``width`` in hundredths of a day."""

    x: int
    y: float
    width: int
    height: float
    label: str


def columns(values: Sequence[float | None], labels: Sequence[str], largest: float) -> list[Column]:
    """The columns of an SVG whose viewBox is ``0 0 (100 * len(values)) 100``."""
    return [
        Column(100 * n + 10, round(100 - height, 2), 80, height, label)
        for n, (value, label) in enumerate(zip(values, labels, strict=True))
        if value and (height := round(100 * value / largest, 2))
    ]
