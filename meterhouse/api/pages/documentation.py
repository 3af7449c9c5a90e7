"""The API's documentation: its OpenAPI document, laid out to be read. It loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from meterhouse.api.operations import PAGES

router = APIRouter(include_in_schema=False, tags=[PAGES])

Json = Mapping[str, Any]
_SCHEMAS: Final = "#/components/schemas/"


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter, or a member of a shape."""

    name: str
    where: str  # query, path, header; of a member: required or optional
    kind: Kind
    text: str
    example: str


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value is, in words; `shape`: the name of its shape, where it has one."""

    words: str
    shape: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    method: str
    path: str
    said: Json
    parameters: tuple[Field, ...]
    body: tuple[tuple[str, Kind], ...]  # media types, and what each holds
    answers: tuple[tuple[str, str, tuple[tuple[str, Kind], ...]], ...]  # status, text, media types


@router.get("/docs")
async def documentation(request: Request) -> Response:
    document = request.app.openapi()
    found = list(operations(document))
    tags = [(tag, [each for each in found if tag["name"] in each.said.get("tags", ())]) for tag in document["tags"]]
    shown = {
        "title": "API",
        "about": document["info"]["description"],
        "tags": tags,
        "shapes": {name: members(schema) for name, schema in sorted(document["components"]["schemas"].items())},
    }
    response: Response = request.app.state.pages.page(request, "documentation.html", shown)
    return response


def operations(document: Json) -> Iterator[Operation]:
    for path, methods in document["paths"].items():
        for method, said in methods.items():
            yield Operation(
                method.upper(),
                path,
                said,
                tuple(_parameter(each) for each in said.get("parameters", ())),
                _contents(said.get("requestBody", {})),
                tuple((status, each["description"], _contents(each)) for status, each in said["responses"].items()),
            )


def members(schema: Json) -> list[Field]:
    """The members of a shape."""
    required = schema.get("required", ())
    return [
        Field(name, "required" if name in required else "optional", kind_of(said), _text(said), _example(said))
        for name, said in schema.get("properties", {}).items()
    ]


def kind_of(schema: Json) -> Kind:
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_SCHEMAS)
        return Kind(name, name)
    if "enum" in schema or "const" in schema:
        return Kind(" | ".join(map(str, schema.get("enum", [schema.get("const")]))))
    if choices := schema.get("anyOf") or schema.get("allOf"):
        kinds = [kind_of(each) for each in choices]
        shapes = [kind.shape for kind in kinds if kind.shape]
        return Kind(" or ".join(dict.fromkeys(kind.words for kind in kinds)), shapes[0] if shapes else None)
    if schema.get("type") == "array":
        item = kind_of(schema.get("items", {}))
        return Kind(f"list of {item.words}", item.shape)
    return Kind(schema.get("format") or schema.get("type") or schema.get("title") or "anything")


def _parameter(said: Json) -> Field:
    schema = said.get("schema", {})
    required = ", required" if said.get("required") else ""
    return Field(said["name"], said["in"] + required, kind_of(schema), said.get("description", ""), _example(schema))


def _contents(said: Json) -> tuple[tuple[str, Kind], ...]:
    contents = said.get("content", {})
    return tuple((media_type, kind_of(each.get("schema", {}))) for media_type, each in contents.items())


def _text(schema: Json) -> str:
    text: str = schema.get("description", "")
    return text


def _example(schema: Json) -> str:
    examples = schema.get("examples")
    return str(examples[0]) if isinstance(examples, list) and examples else ""
