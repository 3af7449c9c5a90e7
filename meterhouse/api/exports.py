"""Exports: files of figures that leave the house, a piece at a time, each told to the audit log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from meterhouse.api.clock import now_us
from meterhouse.api.figures import Reports, Span
from meterhouse.warehouse.audit import Deed
from meterhouse.warehouse.reports.focus import FocusExport
from meterhouse.warehouse.reports.focus_files import csv_pieces, facts, parquet_pieces
from meterhouse.warehouse.reports.groups import Filters, datetime_of
from meterhouse.warehouse.reports.to_json import rfc3339


class Form(StrEnum):
    """What an export is written as."""

    csv = "csv"
    parquet = "parquet"


MEDIA_TYPES: Final[Mapping[Form, str]] = {
    Form.csv: "text/csv; charset=utf-8",
    Form.parquet: "application/vnd.apache.parquet",
}
_PIECES: Final[Mapping[Form, Callable[[FocusExport], Iterator[bytes]]]] = {
    Form.csv: csv_pieces,
    Form.parquet: parquet_pieces,
}


@dataclass(slots=True)
class FocusFile:
    """One FOCUS export as a file. Made for one reader and one pass."""

    reports: Reports  # as whoever asks sees them
    record: Callable[[Deed, int], None]  # `AuditLog.record`
    actor: str
    span: Span
    form: Form
    filters: Filters = field(default_factory=dict)
    export: FocusExport | None = None  # once it is under way

    def pieces(self) -> Iterator[bytes]:
        """The file's bytes. Only when this comes to its end is the file whole.

        The audit log hears of it before the first piece, and when it is over: `export.made`, or `export.broken`.
        Raises ReportError, BooksError, LakeError, ControlUnavailable.
        """
        made = False
        try:
            with self.reports.focus(self.span, self.filters) as export:
                self._tell("export.begun", export)
                self.export = export
                yield from _PIECES[self.form](export)
            made = True
        finally:
            if self.export is not None:
                self._tell("export.made" if made else "export.broken", self.export)

    @property
    def name(self) -> str:
        """What a browser saves it as."""
        assert self.export is not None
        selection = self.export.query.selection
        start, end = (_compact(datetime_of(at_us)) for at_us in (selection.from_us, selection.to_us))
        return f"focus-{start}-{end}.{self.form}"

    @property
    def facts(self) -> dict[str, str]:
        """What is to be known about it beside its rows."""
        assert self.export is not None
        return facts(self.export)

    def _tell(self, action: str, export: FocusExport) -> None:
        selection = export.query.selection
        detail: dict[str, Any] = {
            "from": rfc3339(selection.from_us),
            "to": rfc3339(selection.to_us),
            "filters": {name: list(values) for name, values in selection.filters.items()},
            "form": self.form,
            "snapshot": export.as_of.snapshot,
        }
        if action != "export.begun":
            detail["rows"] = export.rows
        self.record(Deed(self.actor, action, "focus", detail), now_us())


def _compact(moment: datetime) -> str:
    """A date, with its time only where it is no midnight."""
    return moment.strftime("%Y%m%d" if moment.time() == moment.min.time() else "%Y%m%dT%H%M%SZ")
