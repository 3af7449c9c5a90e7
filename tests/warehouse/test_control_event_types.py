"""Event types of foreign clients in the control file: read, told, stored, and every mistake explained."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from meterhouse.ingest.formats.event_types import EventType
from meterhouse.warehouse.control import ControlStore
from meterhouse.warehouse.control_file import parse
from tests.warehouse.control_texts import NOW_US, applied, planned

TEXT = """
event_types:
  - type: job.finished
    application: jobs
    model: [$.data.model, '$.data["llm.name"]']
    input_tokens: $.data.tokens[0]
  - type: litellm
    application: $.metadata.user_api_key_team_alias
"""
JOB = EventType(
    "job.finished",
    {
        "tenant": ("$.subject",),
        "application": ("jobs",),
        "model": ("$.data.model", '$.data["llm.name"]'),
        "input_tokens": ("$.data.tokens[0]",),
    },
)
LITELLM = EventType("litellm", {"application": ("$.metadata.user_api_key_team_alias",)})


def test_event_types_are_read_and_those_that_are_built_in_need_only_what_differs() -> None:
    assert applied(TEXT).event_types == (JOB, LITELLM)


def test_event_types_are_stored_and_read_again(engine: sa.Engine) -> None:
    store = ControlStore(engine)
    store.apply(planned(TEXT), NOW_US)
    assert ControlStore(engine).snapshot().event_types == (JOB, LITELLM)
    store.apply(planned("event_types: []", store.snapshot()), NOW_US + 1)
    assert ControlStore(engine).snapshot().event_types == ()


def test_a_section_that_is_absent_is_not_touched_and_a_change_is_told() -> None:
    current = applied(TEXT)
    assert planned("tenants: [{id: acme}]", current).target.event_types == (JOB, LITELLM)
    [change] = planned(TEXT.replace("tokens[0]", "in"), current).changes
    assert str(change) == "~ event_types job.finished: input_tokens $.data.tokens[0] → $.data.in"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{type: x, application: a}", "model (x, line 2) is missing: say where it stands in the event"),
        ("{type: x, application: a, model: $.data..m}", 'and "..m" is no step of a path: write names and places like'),
        ("{type: x, application: a, model: $}", "which names nothing in the document: write a path like"),
        ("{type: x, application: a, model: m, input_tokens: many}", "write a path like $.data.tokens, or a whole"),
        ("{type: x, application: a, model: m, status: okay}", "(did you mean `ok`?): write a path like"),
        ("{type: x, application: a, model: m, streamed: 1}", "write a path like $.data.stream, or true or false"),
        ("{type: x, application: a, modle: m}", "(did you mean `model`?)"),
        ("{type: meterhouse.request.v1, application: a, model: m}", "is a type of our own"),
        ("{application: a, model: m}", "type (line 2) is missing"),
        ("{type: litellm, application: [$.a, $.b, $.c, $.d, $.e, $.f, $.g, $.h, $.i]}", "at most 8 are allowed"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_a_remedy(entry: str, message: str) -> None:
    problems = [str(problem) for problem in parse(f"event_types:\n  - {entry}").problems]
    assert any(message in problem for problem in problems), problems
    assert all(problem.startswith("event_types[0]") for problem in problems)


def test_a_type_is_given_once() -> None:
    [problem] = parse("event_types:\n  - {type: litellm}\n  - {type: litellm}").problems
    assert 'has the id "litellm" of event_types[0] again' in str(problem)
