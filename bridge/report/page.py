"""A report as one file of HTML that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from bridge import __version__
from bridge.money import display_amount
from bridge.report.charts import columns
from bridge.report.figures import Figures, Series, minutes, percent

__all__ = ["report_page"]


def report_page(figures: Figures) -> str:
    """The page. Amounts in major units, days in UTC."""
    charts = [
        _chart(figures, figures.conversion, top=1.0),
        *(_chart(figures, figures.revenue(c)) for c in figures.currencies),
    ]
    return _template().render(figures=figures, charts=charts, version=__version__)


def _chart(figures: Figures, series: Series, top: float | None = None) -> dict[str, Any]:
    """``top``: the value at the upper edge, by default the largest one."""
    largest = top or max((value or 0 for value in series.values), default=0)
    labels = [f"{day:%a %d %b}: {shown}" for day, shown in zip(figures.days, series.shown, strict=True)]
    return {
        "name": series.name,
        "largest": series.largest,
        "top": percent(top) if top else series.largest,
        "width": 100 * len(series.values),
        "columns": columns(series.values, labels, largest),
    }


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "minutes": minutes}
    environment.globals["display_amount"] = display_amount
    return environment.get_template("report.html")
