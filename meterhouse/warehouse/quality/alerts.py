"""When a failed check is news, and when it no longer is."""

from __future__ import annotations

from collections.abc import Iterable

from meterhouse.streams.alert import Alert, alert_id
from meterhouse.warehouse.quality.checks import Check, CheckResult, Suite, SuiteResult


def subject_of(suite: Suite, check: Check) -> str:
    return f"{suite}/{check.id}"


def quality_alert(suite: Suite, result: CheckResult, passed_us: int | None, now_us: int) -> Alert:
    """The news that a check fails, once per episode: it begins behind the last run that passed (None: none did)."""
    check, finding = result.check, result.finding
    if finding.trouble is not None:
        what = f"could not be checked ({finding.trouble})"
    else:
        what = (
            f"fails in {finding.offending:,} of {finding.checked:,} rows ({finding.rows[0] if finding.rows else '?'})"
        )
    return Alert(
        id=alert_id("quality", suite, check.id, passed_us or 0),
        kind="quality",
        subject=subject_of(suite, check),
        summary=f"data quality of {suite}: {check.says}: {what}; {check.do}",
        created_us=now_us,
        payload={
            "suite": suite,
            "check": check.id,
            "kind": check.kind,
            "offending": finding.offending,
            "rows": list(finding.rows),
            "do": check.do,
        },
    )


def quality_is_back(alert: Alert, results: Iterable[SuiteResult]) -> str | None:
    """Why an open alert's reason is gone; None: it stands, or its suite was not run. A check that is not made any more
    is nobody's news."""
    for result in results:
        if not alert.subject.startswith(f"{result.suite}/"):
            continue
        for each in result.checks:
            if subject_of(result.suite, each.check) == alert.subject:
                return "the check passes" if each.finding.passed else None
        return "there is no such check any more"
    return None
