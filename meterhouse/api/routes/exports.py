"""Exports over HTTP: whole files for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import CallerOf, only
from meterhouse.api.dependencies import FiltersOf, HouseOf, ReportsOf, SpanOf
from meterhouse.api.downloads import Download
from meterhouse.api.exports import MEDIA_TYPES, FocusFile, Form
from meterhouse.api.forms import negotiated
from meterhouse.api.problems import Problem, responses

router = APIRouter(
    prefix="/v1/exports",
    tags=["exports"],
    dependencies=only(Permission.export),
    responses=responses(
        "invalid-parameter", "unauthenticated", "forbidden", "not-acceptable", "rate-limited", "unavailable"
    ),
)

_FILE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The file.",
        "content": {
            MEDIA_TYPES[Form.csv].partition(";")[0]: {"schema": {"type": "string"}},
            MEDIA_TYPES[Form.parquet]: {"schema": {"type": "string", "format": "binary"}},
        },
        "headers": {
            "Meterhouse-Snapshot": {"schema": {"type": "integer"}, "description": "the lake's snapshot that was read"},
            "Meterhouse-Unpriced-Requests": {
                "schema": {"type": "integer"},
                "description": "requests of the range whose model has no price yet: not free, and in no row",
            },
        },
    }
}


@router.get("/focus", summary="FOCUS 1.4 Cost and Usage", response_class=Response, responses=_FILE)
async def focus(
    request: Request,
    who: CallerOf,
    house: HouseOf,
    reports: ReportsOf,
    span: SpanOf,
    filters: FiltersOf,
    form: Annotated[Form | None, Query(alias="format", description="what to write; without it: by `Accept`")] = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """What was billed as rows of FOCUS 1.4: tenant × application × model × token kind × hour × price. In each row unit
    price × quantity = cost, and the rows add up to the chargeback, exactly. CSV, or Parquet by `Accept` or `format`.
    Without a range: the current month (UTC).

    A file that could not be written to its end has no end either: the connection is cut.
    """
    file = FocusFile(reports, house.audit.record, who.id, span, form or acceptable(accept), filters)

    def head() -> Mapping[str, str]:
        told = {f"meterhouse-{name.replace('_', '-')}": value for name, value in file.facts.items()}
        return {
            "content-type": MEDIA_TYPES[file.form],
            "content-disposition": f'attachment; filename="{file.name}"',
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            "vary": "accept",
            **told,
        }

    return Download(request, request.app.state.downloads, file.pieces(), head)


def acceptable(accept: str | None) -> Form:
    """The form that an `Accept` header likes best, CSV among equals. Raises Problem (`not-acceptable`)."""
    forms = {media.partition(";")[0]: form for form, media in MEDIA_TYPES.items()}
    best = negotiated(accept, list(forms))
    if best is None:
        raise Problem("not-acceptable", f"An export is {' or '.join(forms)}: accept one of them, or say `format`.")
    return forms[best]
