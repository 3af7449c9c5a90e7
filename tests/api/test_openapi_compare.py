"""What breaks programs that use the API, each planted in a copy of a document, and what does not."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tools.openapi import release
from tools.openapi.compare import METHODS, breaks

Json = dict[str, Any]
LIST, ALERT = "/v1/alerts", "/v1/alerts/{id}"


def document() -> Json:
    """A small API with one of everything that may break."""
    return {
        "paths": {
            LIST: {
                "get": {
                    "operationId": "alerts",
                    "security": [],
                    "parameters": [
                        {"name": "kind", "in": "query", "schema": {"type": "string", "enum": ["a", "b"]}},
                        {"name": "subject", "in": "query", "schema": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
                        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 9}},
                        {"name": "tenant", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
                    ],
                    "responses": {
                        "200": {
                            "description": "",
                            "headers": {"ETag": {"schema": {"type": "string"}}},
                            "content": {
                                "application/json": {"schema": {"$ref": "#/components/schemas/Alerts"}},
                                "text/csv": {"schema": {"type": "string"}},
                            },
                        },
                        "503": {"description": ""},
                    },
                },
                "post": {
                    "operationId": "raise_alert",
                    "requestBody": {
                        "content": {
                            "application/json": {"schema": {"$ref": "#/components/schemas/NewAlert"}},
                            "text/plain": {"schema": {"type": "string"}},
                        }
                    },
                    "responses": {"204": {"description": ""}},
                },
            },
            ALERT: {
                "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
                "delete": {"operationId": "end_alert", "responses": {"204": {"description": ""}}},
            },
        },
        "components": {
            "schemas": {
                "Alerts": {
                    "type": "object",
                    "required": ["alerts", "next"],
                    "properties": {
                        "alerts": {"type": "array", "items": {"$ref": "#/components/schemas/Alert"}},
                        "next": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    },
                },
                "Alert": {
                    "type": "object",
                    "required": ["id", "state", "cost", "count", "labels"],
                    "properties": {
                        "id": {"type": "string"},
                        "state": {"type": "string", "enum": ["firing", "over"]},
                        "cost": {"type": "string", "pattern": r"^\d+$"},
                        "at": {"type": "string", "format": "date-time"},
                        "count": {"type": "integer", "minimum": 0},
                        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                        "resolves": {"anyOf": [{"$ref": "#/components/schemas/Alert"}, {"type": "null"}]},
                    },
                },
                "NewAlert": {
                    "type": "object",
                    "required": ["subject"],
                    "properties": {
                        "subject": {"type": "string", "maxLength": 10},
                        "kind": {"type": "string", "enum": ["a", "b"]},
                        "share": {"type": "number"},
                        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                        "by": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "null"}]},
                    },
                    "anyOf": [
                        {"required": ["kind"]},
                        {"required": ["by"], "properties": {"by": {"type": "string"}}},
                    ],
                },
            }
        },
    }


class Draft:
    """A document that is being changed."""

    def __init__(self) -> None:
        self.document = document()
        self.paths = self.document["paths"]
        self.get, self.post = self.paths[LIST]["get"], self.paths[LIST]["post"]
        self.parameters = {each["name"]: each for each in self.get["parameters"]}
        self.answers, self.content = self.get["responses"], self.get["responses"]["200"]["content"]
        self.body = self.post["requestBody"]
        schemas = self.document["components"]["schemas"]
        self.alerts, self.alert, self.new = schemas["Alerts"], schemas["Alert"], schemas["NewAlert"]
        self.given, self.taken = self.alert["properties"], self.new["properties"]


Change = Callable[[Draft], object]
BREAKS: dict[str, tuple[Change, str]] = {
    "a path is gone": (lambda d: d.paths.pop(ALERT), "/v1/alerts/{id}: the path is gone"),
    "a method is gone": (lambda d: d.paths[LIST].pop("post"), "POST /v1/alerts: the method is gone"),
    "an operation id changes": (lambda d: d.get.update(operationId="list"), "`alerts` and is `list`"),
    "an open operation asks for credentials": (lambda d: d.get.update(security=[{"key": []}]), "asks for credentials"),
    "a parameter is gone": (lambda d: d.get["parameters"].pop(0), "query parameter `kind`: it is gone"),
    "a parameter of the whole path is gone": (lambda d: d.paths[ALERT].pop("parameters"), "path parameter `id`"),
    "a parameter is required": (lambda d: d.parameters["kind"].update(required=True), "`kind`: it is required now"),
    "a new parameter is required": (
        lambda d: d.get["parameters"].append({"name": "new", "in": "query", "required": True}),
        "`new`: it is new and required",
    ),
    "a parameter's list is written otherwise": (lambda d: d.parameters["tenant"].update(explode=False), "otherwise"),
    "a parameter's value is gone": (lambda d: d.parameters["kind"]["schema"]["enum"].remove("b"), "['b'] are gone"),
    "a parameter takes listed values only": (
        lambda d: d.parameters["subject"].update(schema={"type": "string", "enum": ["x"]}),
        "only ['x'] are taken now",
    ),
    "a parameter's maximum is lower": (lambda d: d.parameters["limit"]["schema"].update(maximum=8), "was 9 and is 8"),
    "a parameter's minimum is higher": (lambda d: d.parameters["limit"]["schema"].update(minimum=2), "was 1 and is 2"),
    "a parameter has a pattern": (
        lambda d: d.parameters["subject"].update(schema={"type": "string", "pattern": "^x"}),
        "its pattern is another: it was None and is ^x",
    ),
    "a parameter is of another type": (
        lambda d: d.parameters["tenant"].update(schema={"type": "string"}),
        "array is not taken any more",
    ),
    "a list's items are of another type": (
        lambda d: d.parameters["tenant"]["schema"].update(items={"type": "integer"}),
        "`tenant`[]: string is not taken any more",
    ),
    "a body is gone": (lambda d: d.post.pop("requestBody"), "POST /v1/alerts body: it is gone"),
    "a body is required": (lambda d: d.body.update(required=True), "body: it is required now"),
    "a new body is required": (
        lambda d: d.get.update(requestBody={"required": True, "content": {}}),
        "GET /v1/alerts body: it is new and required",
    ),
    "a media type of a body is gone": (lambda d: d.body["content"].pop("text/plain"), "text/plain: the media type is"),
    "a property of a body is gone": (lambda d: d.taken.pop("note"), ".note: the property is gone"),
    "a property of a body is required": (lambda d: d.new["required"].append("note"), ".note: the property is required"),
    "a new property of a body is required": (lambda d: d.new["required"].append("x"), ".x: the property is required"),
    "one way to fill a body is gone": (lambda d: d.new["anyOf"].pop(), ".kind: the property is required"),
    "one way to fill a body takes less": (
        lambda d: d.new["anyOf"][1]["properties"]["by"].update(minLength=2),
        "POST /v1/alerts body application/json .",
    ),
    "a body can be filled in fewer ways": (
        lambda d: d.new.update(anyOf=[{"required": ["share"]}]),
        ".share: the property is required now",
    ),
    "a text of a body is shorter": (lambda d: d.taken["subject"].update(maxLength=9), "was 10 and is 9"),
    "a body's value is gone": (lambda d: d.taken["kind"].update(enum=["a"]), "of its values ['b'] are gone"),
    "a body's null is not taken": (lambda d: d.taken.update(note={"type": "string"}), "null is not taken any more"),
    "a body's number is whole": (lambda d: d.taken.update(share={"type": "integer"}), "number is not taken any more"),
    "a body takes no other properties": (lambda d: d.new.update(additionalProperties=False), "no other properties"),
    "a body's free properties are of another type": (
        lambda d: d.taken["labels"].update(additionalProperties={"type": "integer"}),
        ".labels .*: string is not taken",
    ),
    "a status is gone": (lambda d: d.answers.pop("503"), "GET /v1/alerts 503: the status is gone"),
    "a media type of an answer is gone": (lambda d: d.content.pop("text/csv"), "200 text/csv: the media type is gone"),
    "a header of an answer is gone": (lambda d: d.answers["200"].pop("headers"), "200 header `ETag`: it is gone"),
    "a property of an answer is gone": (lambda d: d.given.pop("at"), ".alerts[] .at: the property is gone"),
    "a property of an answer may be absent": (lambda d: d.alert["required"].remove("cost"), "may be absent now"),
    "a property of an answer may be null": (
        lambda d: d.given.update(cost={"anyOf": [d.given["cost"], {"type": "null"}]}),
        ".cost: it may be null now",
    ),
    "a property of an answer is of another type": (
        lambda d: d.given.update(count={"type": "string"}),
        ".count: it may be string now",
    ),
    "a property of an answer has one type of two": (
        lambda d: d.alerts["properties"].update(next={"type": "null"}),
        ".next: it is never string any more",
    ),
    "a whole number of an answer may have decimals": (
        lambda d: d.given["count"].update(type="number"),
        ".count: it may be number now",
    ),
    "a property of an answer may be anything": (lambda d: d.given.update(id={}), ".id: it may be anything now"),
    "a value of an answer is gone": (lambda d: d.given["state"].update(enum=["over"]), "['firing'] are gone"),
    "the values of an answer are not listed": (lambda d: d.given["state"].pop("enum"), "not listed any more"),
    "a pattern of an answer is gone": (lambda d: d.given["cost"].pop("pattern"), "its pattern is another"),
    "a format of an answer is another": (lambda d: d.given["at"].update(format="date"), "was date-time and is date"),
    "a minimum of an answer is lower": (lambda d: d.given["count"].update(minimum=-1), "was 0 and is -1"),
    "an answer's free properties are of another type": (
        lambda d: d.given["labels"].update(additionalProperties={"type": "integer"}),
        ".labels .*: it may be integer now",
    ),
    "an answer's free properties are gone": (
        lambda d: d.given["labels"].update(additionalProperties=False),
        "no other properties",
    ),
}
ADDITIONS: dict[str, Change] = {
    "nothing": lambda d: None,
    "a path": lambda d: d.paths.update({"/v1/more": {"get": {"operationId": "more", "responses": {}}}}),
    "a method": lambda d: d.paths[LIST].update(put={"operationId": "put", "responses": {}}),
    "a parameter": lambda d: d.get["parameters"].append({"name": "new", "in": "query", "schema": {"type": "string"}}),
    "a value that a parameter takes": lambda d: d.parameters["kind"]["schema"]["enum"].append("c"),
    "that a parameter takes any value": lambda d: d.parameters["kind"]["schema"].pop("enum"),
    "a higher maximum": lambda d: d.parameters["limit"]["schema"].update(maximum=100),
    "no minimum": lambda d: d.parameters["limit"]["schema"].pop("minimum"),
    "another type that a parameter takes": lambda d: d.parameters["subject"]["schema"]["anyOf"].append(
        {"type": "array"}
    ),
    "that a path's parameter is said by its methods": lambda d: d.paths[ALERT]["delete"].update(
        parameters=d.paths[ALERT].pop("parameters")
    ),
    "a body that may be left out": lambda d: d.get.update(requestBody={"content": {}}),
    "a media type of a body": lambda d: d.body["content"].update({"text/csv": {}}),
    "a property of a body": lambda d: d.taken.update(more={"type": "string"}),
    "another way to fill a body": lambda d: d.new["anyOf"].append({"required": ["note"]}),
    "that a body can be filled in any way": lambda d: d.new.pop("anyOf"),
    "that one way to fill a body is said otherwise": lambda d: d.new.update(
        oneOf=[d.new["anyOf"][0], {"allOf": [d.new["anyOf"][1]]}], anyOf=[{}]
    ),
    "that a property of a body may be left out": lambda d: d.new.update(required=[]),
    "a longer text of a body": lambda d: d.taken["subject"].update(maxLength=100),
    "that a body takes any number": lambda d: d.taken.update(share={"type": ["number", "string"]}),
    "a status": lambda d: d.answers.update({"406": {"description": ""}}),
    "a media type of an answer": lambda d: d.content.update({"application/parquet": {}}),
    "a header": lambda d: d.answers["200"]["headers"].update(Link={}),
    "a property of an answer": lambda d: d.given.update(more={"type": "string"}),
    "that a property is always there": lambda d: d.alert["required"].append("at"),
    "that a property is never null": lambda d: d.alerts["properties"].update(next={"type": "string"}),
    "a value that an answer may have": lambda d: d.given["state"]["enum"].append("silenced"),
    "that an answer's values are listed": lambda d: d.given["id"].update(enum=["a"]),
    "a closer minimum of an answer": lambda d: d.given["count"].update(minimum=1),
    "a format of an answer": lambda d: d.given["id"].update(format="uuid"),
    "other words": lambda d: d.get.update(summary="All alerts", description="…", deprecated=True, tags=["x"]),
    "an example": lambda d: d.given["id"].update(examples=["a"], title="Id"),
    "another name of a schema": lambda d: d.content["application/json"].update(schema=copy.deepcopy(d.alerts)),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_break_is_found_and_says_where_and_what_to_do(name: str) -> None:
    change, said = BREAKS[name]
    draft = Draft()
    change(draft)
    found = breaks(document(), draft.document)
    assert any(said in str(each) for each in found), found
    assert all(each.instead for each in found)


@pytest.mark.parametrize("name", ADDITIONS)
def test_an_addition_passes(name: str) -> None:
    draft = Draft()
    ADDITIONS[name](draft)
    assert breaks(document(), draft.document) == []


def _removals(node: Any) -> Iterator[Callable[[], Callable[[], None]]]:
    """Each thing that a reader may rely on, to be taken out of a document; the answer puts it back."""
    if isinstance(node, list):
        for each in node:
            yield from _removals(each)
    if not isinstance(node, dict):
        return
    if "properties" in node and "anyOf" in node:  # what the ways to fill it have less of is taken all the same
        node = {name: value for name, value in node.items() if name != "anyOf"}
    for word in ("paths", "responses", "content", "properties"):
        for name in list(node.get(word, ())) if isinstance(node.get(word), dict) else ():
            yield lambda held=node[word], name=name: _without(held, name)  # type: ignore[misc]
    for method in METHODS:
        if isinstance(node.get(method), dict):
            yield lambda method=method: _without(node, method)  # type: ignore[misc]
    for each in node.values():
        yield from _removals(each)


def _without(held: Json, name: str) -> Callable[[], None]:
    order = list(held.items())
    del held[name]

    def put_back() -> None:
        held.clear()
        held.update(order)

    return put_back


def _alone(document: Json, path: str) -> Json:
    """A path with the schemas that it needs."""
    needed: Json = {}
    waiting = [document["paths"][path]]
    while waiting:
        for name in set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(waiting.pop()))) - needed.keys():
            needed[name] = document["components"]["schemas"][name]
            waiting.append(needed[name])
    return copy.deepcopy({"paths": {path: document["paths"][path]}, "components": {"schemas": needed}})


RELEASED = release.released()


@pytest.mark.parametrize("path", RELEASED["paths"])
def test_whatever_is_taken_out_of_the_released_document_is_found(path: str) -> None:
    was, now = _alone(RELEASED, path), _alone(RELEASED, path)
    for remove in list(_removals(now)):
        put_back = remove()
        assert breaks(was, now)
        put_back()
    assert breaks(was, now) == []
