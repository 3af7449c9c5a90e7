"""What is on the boards. Rates are taken over Grafana's `$__rate_interval`, which is never shorter than two scrapes."""

from __future__ import annotations

from typing import Final

from tools.dashboards.panels import Board, Panel


def rate(metric: str, by: str, *, labels: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{labels}[$__rate_interval]))"


def quantile(q: float, metric: str, by: str = "") -> str:
    grouped = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({grouped}) (rate({metric}_bucket[$__rate_interval])))"


ALL_EVENTS: Final = "sum(rate(meterhouse_events_total[$__rate_interval]))"
FAILED: Final = """\
(sum(rate(meterhouse_http_requests_total{status=~"5.."}[$__rate_interval])) or vector(0))
/ sum(rate(meterhouse_http_requests_total[$__rate_interval]))"""
FREE_DISK: Final = "min by (instance, folder) (meterhouse_disk_free_bytes / meterhouse_disk_total_bytes)"

METERING: Final = Board("meterhouse-metering", "metering", (
    Panel("Reports end this long ago", "s", [("time() - max(meterhouse_watermark_timestamp_seconds)", "age")],
          ["MeterhouseReportsStale"], kind="stat"),
    Panel("Records that the lake lacks", "short", [
        ("sum(max by (partition) (meterhouse_uncommitted_records))", "records"),
    ], ["MeterhouseLagGrows"], kind="stat"),
    Panel("Events committed", "ops", [
        (ALL_EVENTS, "events/s"),
    ], kind="stat"),
    Panel("Models without a price", "short", [("max(meterhouse_unpriced_models)", "models")],
          ["MeterhouseUnpricedModels"], kind="stat"),
    Panel("Records that the lake lacks, by partition", "short",
          [("max by (partition) (meterhouse_uncommitted_records)", "{{partition}}")], ["MeterhouseLagGrows"],
          note="As the alert sender's lookout sees it, whether a meter runs or not. The line is for their sum."),
    Panel("The first of them waits", "s", [("max by (partition) (meterhouse_uncommitted_seconds)", "{{partition}}")]),
    Panel("Not processed, by partition", "short", [("max by (partition) (meterhouse_lag_records)", "{{partition}}")],
          note="As the meters see it."),
    Panel("Age of the last record processed", "s", [("max by (partition) (meterhouse_lag_seconds)", "{{partition}}")],
          note="While others wait."),
    Panel("Records read", "ops", [(rate("meterhouse_records_read_total", "instance"), "{{instance}}")]),
    Panel("Events, by what became of them", "ops", [(rate("meterhouse_events_total", "outcome"), "{{outcome}}")]),
    Panel("Rejects, by reason", "ops", [(rate("meterhouse_rejects_total", "reason"), "{{reason}}")]),
    Panel("Share of rejects", "percentunit", [
        (f"{rate('meterhouse_rejects_total', 'reason')} / ignoring (reason) group_left () {ALL_EVENTS}", "{{reason}}"),
    ], ["MeterhouseRejectsClimb"]),
    Panel("A poll's stages, 95 of 100", "s", [(quantile(0.95, "meterhouse_stage_seconds", "stage"), "{{stage}}")]),
    Panel("Events of a poll and of a commit, half of them", "short", [
        (quantile(0.5, "meterhouse_poll_events"), "poll"), (quantile(0.5, "meterhouse_commit_events"), "commit"),
    ]),
    Panel("Commit", "s", [
        (quantile(0.5, "meterhouse_commit_seconds"), "half"),
        (quantile(0.95, "meterhouse_commit_seconds"), "95 of 100"),
    ], ["MeterhouseCommitsSlow"]),
    Panel("Commits", "ops", [(rate("meterhouse_commit_seconds_count", "instance"), "{{instance}}")]),
    Panel("Fenced commits in a quarter of an hour", "short", [
        ("sum(increase(meterhouse_fenced_commits_total[15m]))", "fenced"),
    ], ["MeterhouseFencedCommits"]),
    Panel("Processed and not committed", "short", [("meterhouse_buffered_events", "{{instance}}")],
          note="A meter stops reading at 400,000."),
    Panel("Ids in the dedupe window", "short", [("meterhouse_dedupe_ids", "{{instance}}")]),
    Panel("Memory of the dedupe window", "bytes", [("meterhouse_dedupe_bytes", "{{instance}}")]),
    Panel("Maintenance: rounds", "short", [
        ("sum by (outcome) (increase(meterhouse_maintenance_runs_total[1h]))", "{{outcome}}"),
    ], note="In an hour."),
    Panel("Maintenance: effect", "short", [
        ("sum(increase(meterhouse_maintenance_merged_files_total[1h]))", "files merged"),
        ("sum(increase(meterhouse_maintenance_expired_snapshots_total[1h]))", "snapshots expired"),
        ("sum(increase(meterhouse_maintenance_deleted_files_total[1h]))", "files deleted"),
        ("sum(increase(meterhouse_maintenance_orphans_total[1h]))", "orphans deleted"),
    ], note="In an hour."),
    Panel("Maintenance: deleted", "bytes", [("sum(increase(meterhouse_maintenance_deleted_bytes_total[1h]))", "bytes")],
          note="In an hour."),
    Panel("Maintenance: a round", "s", [(quantile(0.95, "meterhouse_maintenance_seconds"), "95 of 100")]),
    Panel("Since maintenance last went well", "s", [
        ("time() - max(meterhouse_maintenance_success_timestamp_seconds)", "since"),
    ], ["MeterhouseMaintenanceStands"]),
    Panel("Rows that retention removed", "short", [
        ("sum by (table) (increase(meterhouse_retention_removed_rows_total[1d]))", "{{table}}"),
    ], note="In a day."),
))  # fmt: skip

BUDGETS: Final = Board("meterhouse-budgets", "budgets and alerts", (
    Panel("Age of the spend that admissions go by", "s", [("meterhouse_budget_state_age_seconds", "{{instance}}")],
          ["MeterhouseBudgetsStale"]),
    Panel("Since a budget worker's last turn", "s", [
        ("time() - meterhouse_budget_turn_timestamp_seconds", "{{instance}}"),
    ], ["MeterhouseBudgetWorkerStands"]),
    Panel("Totals read, states said", "ops", [
        ("sum(rate(meterhouse_budget_totals_read_total[$__rate_interval]))", "totals"),
        ("sum(rate(meterhouse_budget_states_said_total[$__rate_interval]))", "states"),
    ]),
    Panel("Admissions", "reqps", [(rate("meterhouse_admissions_total", "outcome"), "{{outcome}}")]),
    Panel("Refusals and throttling, by reason", "reqps", [
        (rate("meterhouse_admissions_total", "reason", labels='{outcome!="allow"}'), "{{reason}}"),
    ], ["MeterhouseGateUnsure"], note="The line is for stale, not_ready and too_many."),
    Panel("Reservations held", "short", [("meterhouse_reservations", "{{instance}}")]),
    Panel("Alerts raised by thresholds", "short", [("sum(increase(meterhouse_alerts_raised_total[1h]))", "raised")],
          note="In an hour."),
    Panel("Alerts that wait", "short", [("max(meterhouse_alerts_waiting)", "alerts")]),
    Panel("The oldest of them", "s", [("max(meterhouse_alerts_waiting_seconds)", "age")],
          ["MeterhouseAlertsNotDelivered"]),
    Panel("Tries to deliver", "short", [
        ("sum by (channel, outcome) (increase(meterhouse_alert_deliveries_total[1h]))", "{{channel}} {{outcome}}"),
    ], note="In an hour."),
    Panel("Given up", "short", [
        ('sum by (channel) (increase(meterhouse_alert_deliveries_total{outcome="given_up"}[1h]))', "{{channel}}"),
    ], ["MeterhouseAlertsGivenUp"], note="In an hour."),
    Panel("From raised to delivered, 95 of 100", "s", [
        (quantile(0.95, "meterhouse_alert_delay_seconds", "channel"), "{{channel}}"),
    ]),
))  # fmt: skip

SERVING: Final = Board("meterhouse-serving", "API and processes", (
    Panel("Requests, by status", "reqps", [(rate("meterhouse_http_requests_total", "status"), "{{status}}")]),
    Panel("Requests, by route", "reqps", [
        (rate("meterhouse_http_requests_total", "method, route"), "{{method}} {{route}}"),
    ]),
    Panel("Requests that fail", "percentunit", [(FAILED, "5xx")], ["MeterhouseHttpErrors"]),
    Panel("Until an answer begins, half", "s", [
        (quantile(0.5, "meterhouse_http_request_seconds", "route"), "{{route}}"),
    ]),
    Panel("Until an answer begins, 99 of 100", "s", [
        (quantile(0.99, "meterhouse_http_request_seconds", "route"), "{{route}}"),
    ], ["MeterhouseHttpSlow"]),
    Panel("Foreign elements left out", "ops", [(rate("meterhouse_foreign_left_out_total", "format"), "{{format}}")]),
    Panel("Processes that answer", "short", [('sum by (process) (up{job="meterhouse"})', "{{process}}")]),
    Panel("What is tried again", "ops", [(rate("meterhouse_retries_total", "worker, away"), "{{worker}}: {{away}}")],
          note="The lake, the log, room in the log, the database of control data."),
    Panel("Version of control data", "short", [("meterhouse_control_version", "{{process}} {{instance}}")]),
    Panel("Control data not to be had", "ops", [(rate("meterhouse_control_away_total", "instance"), "{{instance}}")]),
    Panel("Free disk", "percentunit", [(FREE_DISK, "{{instance}} {{folder}}")],
          ["MeterhouseDiskFull", "MeterhouseDiskFilling"]),
    Panel("Memory", "bytes", [("process_resident_memory_bytes", "{{process}} {{instance}}")]),
    Panel("Processor", "percentunit", [
        (rate("process_cpu_seconds_total", "process, instance"), "{{process}} {{instance}}"),
    ], note="1 is a whole core."),
    Panel("Files and connections", "short", [("process_open_fds", "{{process}} {{instance}}")]),
    Panel("Restarts in an hour", "short", [
        ("sum by (process) (changes(process_start_time_seconds[1h]))", "{{process}}"),
    ]),
))  # fmt: skip

QUALITY: Final = Board("meterhouse-quality", "data quality", (
    Panel("Checks that fail", "short", [("sum by (suite) (meterhouse_quality_check_failing)", "{{suite}}")],
          note="`meterhouse alerts --kind quality` says which rows, and what to do."),
    Panel("Rows that fail them", "short", [
        ("sum by (suite, check) (meterhouse_quality_check_offending) > 0", "{{suite}} {{check}}"),
    ]),
    Panel("Since the last run", "s", [
        ("time() - max by (suite) (meterhouse_quality_run_timestamp_seconds)", "{{suite}}"),
    ]),
    Panel("Runs that could not be made", "short", [("sum(increase(meterhouse_quality_runs_broken_total[1d]))", "runs")],
          note="In a day."),
    Panel("A run, 95 of 100", "s", [
        ("histogram_quantile(0.95, sum by (le) (rate(meterhouse_quality_run_seconds_bucket[1d])))", "95 of 100"),
    ], note="In a day."),
))  # fmt: skip

BOARDS: Final = (METERING, BUDGETS, SERVING, QUALITY)
