"""Data quality as values: what a check expects of an extract, and what came of it.

*Suite*: checks that are run and told together. *Extract*: a small table made from the lake or from control data; a row
of it is named by its `keys`. *Check*: one expectation of one extract; it fails by naming the rows that do not meet it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa

Suite = Literal["events", "rollups", "control"]
SUITE_NAMES: Final[tuple[Suite, ...]] = ("events", "rollups", "control")
Kind = Literal["range", "set", "freshness", "completeness", "drift"]

MAX_ROWS: Final = 50_000
"""Rows of an extract: a week of four hundred tenants with fifteen models each, and 50 MB as pandas holds them. Model
names are the sender's free text, so without a limit there could be as many groups as requests."""
MAX_NAMED: Final = 20
"""Rows that a failed check names: enough to see what they have in common. How many there are is told as well."""
MAX_ROW_TEXT: Final = 500
"""Characters of a named row: names are up to 256 each, and an alert's reader wants to see where, not all of it."""


@dataclass(frozen=True, slots=True)
class Between:
    """Values of a column are low <= value <= high; None: without that end. Nulls are not looked at."""

    column: str
    low: int | None
    high: int | None


@dataclass(frozen=True, slots=True)
class OneOf:
    """Values of a column are some of these. Nulls are not looked at."""

    column: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PairOneOf:
    """Values of two columns, together, are some of these pairs."""

    column: str
    other: str
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Same:
    """Values of two columns are equal in each row."""

    column: str
    other: str


Expectation = Between | OneOf | PairOneOf | Same


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation. Its id never changes: alerts and metrics are by it."""

    id: str  # unique in its suite
    kind: Kind
    extract: str
    expects: Expectation
    says: str  # what holds when it passes
    do: str  # what to do when it does not


@dataclass(frozen=True, slots=True)
class Extract:
    """Integers and texts, at most MAX_ROWS rows."""

    name: str
    keys: tuple[str, ...]  # columns that name a row
    table: pa.Table
    whole: bool = True  # False: there are more rows than MAX_ROWS, which no check has seen


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a check over its extract."""

    checked: int  # rows
    offending: int  # rows that do not meet it
    rows: tuple[str, ...] = ()  # the first MAX_NAMED of them, named
    trouble: str | None = None  # why it could not be checked, which is no pass

    @property
    def passed(self) -> bool:
        return not self.offending and self.trouble is None


Validate = Callable[[Suite, Sequence[tuple[Extract, Sequence[Check]]]], Mapping[str, Finding]]
"""Runs the checks of a suite, each beside its extract; a finding by check id."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A check that was run."""

    check: Check
    finding: Finding
    whole: bool  # whether its extract was


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """A suite that was run."""

    suite: Suite
    at_us: int
    lake_snapshot: int
    watermark_us: int | None  # every event that arrived before it was looked at
    control_version: int
    checks: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        return all(result.finding.passed for result in self.checks)

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        return tuple(result for result in self.checks if not result.finding.passed)


def result_json(result: CheckResult) -> dict[str, Any]:
    """A check that was run, as it is kept and told."""
    check, finding = result.check, result.finding
    return {
        "check": check.id,
        "kind": check.kind,
        "says": check.says,
        "passed": finding.passed,
        "checked": finding.checked,
        "whole": result.whole,
        "offending": finding.offending,
        "rows": list(finding.rows),
        "trouble": finding.trouble,
        "do": None if finding.passed else check.do,
    }


def row_text(extract: Extract, expects: Expectation, row: Mapping[str, Any]) -> str:
    """An offending row by its keys, and what is wrong with it: `day 2026-11-25, tenant acme: fewest_tokens -5`."""
    named = ", ".join(f"{key} {row[key]}" for key in extract.keys if key in row and not _absent(row[key]))
    columns = [expects.column, expects.other] if isinstance(expects, PairOneOf | Same) else [expects.column]
    wrong = ", ".join(f"{column} {row.get(column)}" for column in columns)
    return f"{named or 'all'}: {wrong}"[:MAX_ROW_TEXT]


def _absent(value: Any) -> bool:
    return value is None or value != value  # noqa: PLR0124 - NaN, as pandas writes a missing text


def needed(checks: Sequence[Check]) -> dict[str, list[Check]]:
    """Checks by the extract that they look at, in their order."""
    found: dict[str, list[Check]] = {}
    for check in checks:
        found.setdefault(check.extract, []).append(check)
    return found
