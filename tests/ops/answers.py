"""Asks PromQL of what real processes said, by promtool alone: their samples become series, each question an alert that
fires when it has an answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from tests.ops.scraping import Scrape

_COUNTS = ("_total", "_bucket", "_count", "_sum")


def unanswered_test(scraped: Mapping[str, Scrape], questions: Mapping[str, str], folder: Path) -> Path:
    """A file for `promtool test rules` that fails unless each of the questions has an answer."""
    rules = [{"alert": name, "expr": f"count({question}) > 0"} for name, question in questions.items()]
    (folder / "questions.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "questions", "rules": rules}]}), encoding="utf-8"
    )
    test = {
        "interval": "1m",
        "input_series": [
            {"series": series, "values": values}
            for process, scrape in scraped.items()
            for series, values in _series(process, scrape)
        ],
        "alert_rule_test": [
            {"eval_time": "30m", "alertname": name, "exp_alerts": [{"exp_labels": {}}]} for name in questions
        ],
    }
    file = folder / "questions_test.yml"
    file.write_text(yaml.safe_dump({"rule_files": ["questions.yml"], "tests": [test]}), encoding="utf-8")
    return file


def _series(process: str, scrape: Scrape) -> list[tuple[str, str]]:
    """Its samples, with the labels that Prometheus gives; counters count on."""
    target = {"job": "meterhouse", "process": process, "instance": f"{process}:9464"}
    found = [("up", target, "1x60")]
    for (name, labels), value in scrape.samples.items():
        step = "+1x60" if name.endswith(_COUNTS) else "+0x60"
        found.append((name, {**target, **dict(labels)}, f"{value!r}{step}".replace("nan", "NaN")))
    return [(f"{name}{{{_matched(labels)}}}", values) for name, labels, values in found]


def _matched(labels: Mapping[str, str]) -> str:
    return ", ".join(f'{name}="{value}"' for name, value in labels.items())
