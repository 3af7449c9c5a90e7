"""What of a new OpenAPI document breaks programs that were written to an older one. Pure: documents in, breaks out.

A version of the API only adds. A program that sends what it sent must be understood as before, so what requests may
have never gets less. One that reads what it read must find it, so what answers have never gets less either, and stays
what it was. Additions pass: routes, methods, optional parameters and fields, statuses, media types, fields of answers,
and values of an enumeration, which a reader takes as it takes an unknown field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Json = Mapping[str, Any]
Side = Literal["request", "answer"]

METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_LOWEST: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_HIGHEST: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_EXACT: Final = ("pattern", "format", "multipleOf", "uniqueItems", "contentEncoding")
_REF: Final = "x-ref"  # in a case: the name of the schema that it comes from
_WAYS: Final = ("style", "explode")  # of writing a list in a query


@dataclass(frozen=True, slots=True)
class Break:
    """`where` in the document, `what` is otherwise now, and what to do `instead`."""

    where: str
    what: str
    instead: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.instead}"


_KEEP: Final = "Keep it, and mark the operation deprecated where it is to go"
_BESIDE: Final = "Keep it as it was, and add another beside it"
_OPTIONAL: Final = "Make it optional"


def breaks(released: Json, current: Json) -> list[Break]:
    """Everything in `current` that breaks a program written to `released`; nothing: it only adds."""
    return list(_Comparison(released, current).paths())


class _Comparison:
    def __init__(self, released: Json, current: Json) -> None:
        self._released, self._current = released, current
        self._under_way: set[tuple[str, str, Side]] = set()
        """Pairs of named schemas that are being compared: one may hold itself."""

    def paths(self) -> Iterator[Break]:
        for path, was in self._released.get("paths", {}).items():
            now = self._current.get("paths", {}).get(path)
            if now is None:
                yield Break(path, "the path is gone", _KEEP)
                continue
            for method in METHODS:
                if method not in was:
                    continue
                where = f"{method.upper()} {path}"
                if method not in now:
                    yield Break(where, "the method is gone", _KEEP)
                else:
                    yield from self._operation(where, _with_shared(was, method), _with_shared(now, method))

    def _operation(self, where: str, was: Json, now: Json) -> Iterator[Break]:
        if was.get("operationId") != now.get("operationId"):
            said = f"its operationId was `{was.get('operationId')}` and is `{now.get('operationId')}`"
            yield Break(where, said, "Keep the name of the route's function: clients have methods of that name")
        if not was.get("security") and now.get("security"):
            yield Break(where, "it asks for credentials now", "Leave it open, and add another beside it")
        yield from self._parameters(where, was, now)
        yield from self._body(where, was.get("requestBody"), now.get("requestBody"))
        for status, answer in was.get("responses", {}).items():
            if status not in now.get("responses", {}):
                yield Break(f"{where} {status}", "the status is gone", _KEEP)
            else:
                yield from self._answer(f"{where} {status}", answer, now["responses"][status])

    def _parameters(self, where: str, was: Json, now: Json) -> Iterator[Break]:
        before, after = (
            {(each["in"], each["name"]): each for each in side.get("parameters", ())} for side in (was, now)
        )
        for (place, name), parameter in before.items():
            here = f"{where} {place} parameter `{name}`"
            other = after.get((place, name))
            if other is None:
                yield Break(here, "it is gone", _KEEP)
                continue
            if other.get("required") and not parameter.get("required"):
                yield Break(here, "it is required now", _OPTIONAL)
            if any(parameter.get(way) != other.get(way) for way in _WAYS):
                yield Break(here, "it is written otherwise", _BESIDE)
            yield from self._schema(here, parameter.get("schema", {}), other.get("schema", {}), "request")
        for place, name in after.keys() - before.keys():
            if after[place, name].get("required"):
                yield Break(f"{where} {place} parameter `{name}`", "it is new and required", _OPTIONAL)

    def _body(self, where: str, was: Json | None, now: Json | None) -> Iterator[Break]:
        here = f"{where} body"
        if was is None:
            if now is not None and now.get("required"):
                yield Break(here, "it is new and required", _OPTIONAL)
        elif now is None:
            yield Break(here, "it is gone", _KEEP)
        else:
            if now.get("required") and not was.get("required"):
                yield Break(here, "it is required now", _OPTIONAL)
            yield from self._content(here, was, now, "request")

    def _answer(self, where: str, was: Json, now: Json) -> Iterator[Break]:
        yield from self._content(where, was, now, "answer")
        for name, header in was.get("headers", {}).items():
            here = f"{where} header `{name}`"
            if name not in now.get("headers", {}):
                yield Break(here, "it is gone", _KEEP)
            else:
                yield from self._schema(
                    here, header.get("schema", {}), now["headers"][name].get("schema", {}), "answer"
                )

    def _content(self, where: str, was: Json, now: Json, side: Side) -> Iterator[Break]:
        for media_type, content in was.get("content", {}).items():
            here = f"{where} {media_type}"
            if media_type not in now.get("content", {}):
                yield Break(here, "the media type is gone", _KEEP)
            else:
                yield from self._schema(
                    here, content.get("schema", {}), now["content"][media_type].get("schema", {}), side
                )

    def _schema(self, where: str, was: Json, now: Json, side: Side) -> Iterator[Break]:
        before, after = _cases(was, self._released), _cases(now, self._current)
        compared = self._requested if side == "request" else self._answered
        yield from compared(where, before, after)

    def _requested(self, where: str, before: Sequence[Json], after: Sequence[Json]) -> Iterator[Break]:
        """Each case that was taken must be taken by one of those that are."""
        for case in before:
            alike = [each for each in after if _is_of(case, each)]
            if not alike:
                yield Break(where, f"{_name(case)} is not taken any more", "Take it as before")
            else:
                yield from self._least(where, [(case, each) for each in alike], "request")

    def _answered(self, where: str, before: Sequence[Json], after: Sequence[Json]) -> Iterator[Break]:
        """Each case that may come must be one that could, and each that could must still be possible, but for null."""
        for case in after:
            alike = [each for each in before if _is_of(case, each)]
            if not alike:
                yield Break(where, f"it may be {_name(case)} now", _BESIDE)
            else:
                yield from self._least(where, [(each, case) for each in alike], "answer")
        for case in before:
            if _name(case) != "null" and not any(_is_of(each, case) for each in after):
                yield Break(where, f"it is never {_name(case)} any more", _BESIDE)

    def _least(self, where: str, pairs: Sequence[tuple[Json, Json]], side: Side) -> Iterator[Break]:
        """What the best match of a case breaks."""
        yield from min((list(self._case(where, was, now, side)) for was, now in pairs), key=len)

    def _case(self, where: str, was: Json, now: Json, side: Side) -> Iterator[Break]:
        pair = (was.get(_REF, ""), now.get(_REF, ""), side)
        if pair in self._under_way:
            return
        if all(pair[:2]):
            self._under_way.add(pair)
        yield from _values(where, was, now, side)
        yield from _limits(where, was, now, side)
        yield from self._properties(where, was, now, side)
        if "items" in was or "items" in now:
            yield from self._schema(f"{where}[]", was.get("items", {}), now.get("items", {}), side)
        yield from self._others(where, was, now, side)
        self._under_way.discard(pair)

    def _properties(self, where: str, was: Json, now: Json, side: Side) -> Iterator[Break]:
        before, after = was.get("properties", {}), now.get("properties", {})
        needed, needs = set(was.get("required", ())), set(now.get("required", ()))
        for name, schema in before.items():
            here = f"{where} .{name}"
            if name not in after:
                yield Break(here, "the property is gone", _KEEP)
                continue
            if side == "answer" and name in needed - needs:
                yield Break(here, "the property was always there and may be absent now", "Keep it required")
            yield from self._schema(here, schema, after[name], side)
        if side == "request":
            yield from (Break(f"{where} .{name}", "the property is required now", _OPTIONAL) for name in needs - needed)

    def _others(self, where: str, was: Json, now: Json, side: Side) -> Iterator[Break]:
        """Properties without a name of their own."""
        before, after = was.get("additionalProperties", True), now.get("additionalProperties", True)
        here = f"{where} .*"
        if before is False:
            return
        if after is False:
            if side == "request" or before is not True:
                yield Break(here, "no other properties are taken or given any more", "Allow them")
        elif before is not True or after is not True:
            yield from self._schema(here, _as_schema(before), _as_schema(after), side)


def _values(where: str, was: Json, now: Json, side: Side) -> Iterator[Break]:
    """Listed values: none may go. A list around what had none takes values away from requests; that an answer's is no
    longer listed lets anything come."""
    before, after = _listed(was), _listed(now)
    if before is None and after is not None and side == "request":
        yield Break(where, f"only {after} are taken now", "Take every value as before")
    elif before is not None and after is None and side == "answer":
        yield Break(where, "its values are not listed any more", "Keep the list")
    elif before is not None and after is not None and (gone := [each for each in before if each not in after]):
        yield Break(where, f"of its values {gone} are gone", "Keep them")


def _limits(where: str, was: Json, now: Json, side: Side) -> Iterator[Break]:
    """What is taken may not be limited further, and what is given not less: a reader may rely on it."""
    said, instead = (
        ("tighter", "Take what was taken") if side == "request" else ("looser", "Give no more than was said")
    )
    strict, loose = (now, was) if side == "request" else (was, now)
    for names, sign in ((_LOWEST, 1), (_HIGHEST, -1)):
        for name in names:
            if name in strict and (name not in loose or sign * strict[name] > sign * loose[name]):
                yield Break(where, f"its {name} is {said}: it was {was.get(name)} and is {now.get(name)}", instead)
    for name in _EXACT:
        if name in strict and strict[name] != loose.get(name):
            yield Break(where, f"its {name} is another: it was {was.get(name)} and is {now.get(name)}", instead)


def _listed(schema: Json) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _as_schema(allowed: Json | bool) -> Json:
    return {} if allowed is True or allowed is False else allowed


def _with_shared(item: Json, method: str) -> Json:
    """An operation with the parameters that its path shares."""
    operation: Json = item[method]
    if "parameters" not in item:
        return operation
    return {**operation, "parameters": [*item["parameters"], *operation.get("parameters", ())]}


def _cases(schema: Json, document: Json, seen: frozenset[str] = frozenset()) -> list[Json]:
    """The alternatives that a schema stands for, each of one type or, where none is said, of any."""
    if (ref := schema.get("$ref")) is not None:
        if ref in seen:
            return []
        return [{_REF: ref, **case} for case in _cases(_resolved(ref, document), document, seen | {ref})]
    parts = [_cases(each, document, seen) for each in schema.get("allOf", ())]
    parts += [
        [case for each in schema[word] for case in _cases(each, document, seen)]
        for word in ("anyOf", "oneOf")
        if word in schema
    ]
    kinds = schema.get("type")
    own = {name: value for name, value in schema.items() if name not in {"type", "allOf", "anyOf", "oneOf"}}
    cases: list[Json] = [
        own | ({"type": kind} if kind else {}) for kind in (kinds if isinstance(kinds, list) else [kinds])
    ]
    for part in parts:
        cases = [_both(case, other) for case in cases for other in part if _is_of(case, other) or _is_of(other, case)]
    return cases


def _both(one: Json, other: Json) -> Json:
    """What is of both cases."""
    whole = {**one, **other}
    if "type" in one and (one["type"] == "integer" or "type" not in other):
        whole["type"] = one["type"]
    if "enum" in one and "enum" in other:
        whole["enum"] = [each for each in one["enum"] if each in other["enum"]]
    for names, tighter in ((_LOWEST, max), (_HIGHEST, min)):
        whole |= {name: tighter(one[name], other[name]) for name in names if name in one and name in other}
    if "required" in one and "required" in other:
        whole["required"] = [*one["required"], *other["required"]]
    if "properties" in one and "properties" in other:
        mine, theirs = one["properties"], other["properties"]
        shared = {name: {"allOf": [mine[name], theirs[name]]} for name in mine.keys() & theirs.keys()}
        whole["properties"] = {**mine, **theirs, **shared}
    return whole


def _resolved(ref: str, document: Json) -> Json:
    found: Any = document
    for part in ref.removeprefix("#/").split("/"):
        found = found[part]
    assert isinstance(found, Mapping)
    return found


def _is_of(case: Json, other: Json) -> bool:
    """May a value of the first's type be of the second's?"""
    kind, wider = case.get("type"), other.get("type")
    return wider is None or kind == wider or (kind, wider) == ("integer", "number")


def _name(case: Json) -> str:
    return str(case.get("type", "anything"))
