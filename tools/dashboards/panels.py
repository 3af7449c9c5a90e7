"""Boards and panels as values, and the same as Grafana's JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

SOURCE: Final = {"type": "prometheus", "uid": "meterhouse-prometheus"}
"""As ops/grafana/provisioning/datasources/prometheus.yml names it."""
RUNBOOK: Final = "meterhouse-runbook"
SCHEMA: Final = 39  # of Grafana 11's dashboards; later ones read it too
_COLUMNS: Final = 24  # of Grafana's grid
_WIDTH: Final = {"timeseries": 8, "stat": 6, "text": 24}
_HEIGHT: Final = {"timeseries": 8, "stat": 4, "text": 12}
_COLORS: Final = {"critical": "red", "warning": "orange"}


@dataclass(frozen=True)
class Panel:
    """A figure. `queries`: (PromQL, legend). `alerts`: rules about it, whose limits are drawn as lines, with links to
    their sections of the runbook."""

    title: str
    unit: str  # Grafana's: s, short, bytes, reqps, percentunit, ops
    queries: Sequence[tuple[str, str]]
    alerts: Sequence[str] = ()
    kind: str = "timeseries"
    note: str = ""


@dataclass(frozen=True)
class Board:
    """A dashboard."""

    uid: str
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Ground:
    """What panels lean on: rules by name, and where each section of the runbook is."""

    rules: dict[str, dict[str, Any]]
    sections: dict[str, int]  # by slug: the panel's id on the runbook's board

    def limit(self, alert: str) -> tuple[str, float]:
        """`>` or `<`, and the number that a rule compares with at its end."""
        found = re.search(r"([<>]) ([0-9.]+)\s*$", self.rules[alert]["expr"])
        if found is None:
            raise ValueError(f"{alert} does not end in a comparison with a number: it has no line to draw")
        return found[1], float(found[2])

    def link(self, alert: str) -> dict[str, Any]:
        slug = self.rules[alert]["annotations"]["runbook"].partition("#")[2]
        return {
            "title": f"Runbook: {slug.replace('-', ' ')}",
            "url": f"/d/{RUNBOOK}/?viewPanel={self.sections[slug]}",
            "targetBlank": True,
        }


def board_json(board: Board, ground: Ground) -> dict[str, Any]:
    kinds = [panel.kind for panel in board.panels]
    drawn = [
        {**_panel_json(panel, ground), "id": number, "gridPos": place}
        for number, (panel, place) in enumerate(zip(board.panels, _places(kinds), strict=True), start=1)
    ]
    return _board(board.uid, board.title, drawn)


def text_board(uid: str, title: str, sections: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A board of pages of Markdown, in their order from panel 1 on."""
    places = _places(["text"] * len(sections))
    drawn = [
        {
            "id": number, "type": "text", "title": name, "gridPos": place,
            "options": {"mode": "markdown", "content": text},
        }
        for number, ((name, text), place) in enumerate(zip(sections, places, strict=True), start=1)
    ]  # fmt: skip
    return _board(uid, title, drawn)


def _board(uid: str, title: str, panels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "uid": uid, "title": f"Meterhouse: {title}", "tags": ["meterhouse"], "schemaVersion": SCHEMA, "version": 1,
        "editable": False, "timezone": "utc", "refresh": "30s", "time": {"from": "now-3h", "to": "now"},
        "links": [{"type": "dashboards", "title": "Meterhouse", "tags": ["meterhouse"], "asDropdown": False}],
        "panels": list(panels),
    }  # fmt: skip


def _panel_json(panel: Panel, ground: Ground) -> dict[str, Any]:
    drawn: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.note,
        "datasource": SOURCE,
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for place, (query, legend) in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, **_lines(panel, ground)}, "overrides": []},
    }
    links = {link["url"]: link for link in map(ground.link, panel.alerts)}
    return {**drawn, "links": list(links.values())} if links else drawn


def _lines(panel: Panel, ground: Ground) -> dict[str, Any]:
    """A line for each limit; beyond it the colour says how bad it is."""
    limits = sorted(
        (*reversed(ground.limit(alert)), ground.rules[alert]["labels"]["severity"]) for alert in panel.alerts
    )
    if not limits:
        return {}
    if all(sign == ">" for _, sign, _ in limits):
        steps = [{"value": None, "color": "green"}, *({"value": at, "color": _COLORS[bad]} for at, _, bad in limits)]
    else:  # too little is bad: a colour holds up to its limit
        colors = [*(_COLORS[bad] for _, _, bad in limits), "green"]
        starts = [None, *(at for at, _, _ in limits)]
        steps = [{"value": at, "color": color} for at, color in zip(starts, colors, strict=True)]
    return {
        "custom": {"thresholdsStyle": {"mode": "line"}},
        "thresholds": {"mode": "absolute", "steps": steps},
    }


def _places(kinds: Sequence[str]) -> list[dict[str, int]]:
    """From left to right, row after row; a row is as high as its highest."""
    places, x, y, row = list[dict[str, int]](), 0, 0, 0
    for kind in kinds:
        width, height = _WIDTH[kind], _HEIGHT[kind]
        if x + width > _COLUMNS:
            x, y, row = 0, y + row, 0
        places.append({"x": x, "y": y, "w": width, "h": height})
        x, row = x + width, max(row, height)
    return places
