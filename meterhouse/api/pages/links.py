"""A page's query: what a link keeps of it and what it changes. A filter is a parameter, so an address can be shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from fastapi import Request


@dataclass(frozen=True, slots=True)
class Query:
    """Parameters in their order, those without a value left out."""

    path: str
    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, request: Request) -> Query:
        return cls(request.url.path, tuple(request.query_params.multi_items()))

    def with_(self, path: str | None = None, **changed: str | Sequence[str] | None) -> str:
        """The address with these parameters instead; None takes one out, an empty text stays (`environment=`)."""
        kept = [pair for pair in self.pairs if pair[0] not in changed]
        for name, value in changed.items():
            values = [] if value is None else [value] if isinstance(value, str) else value
            kept += [(name, each) for each in values]
        text = urlencode(kept)
        return f"{path or self.path}{'?' if text else ''}{text}"

    def only(self, *names: str) -> Query:
        return Query(self.path, tuple(pair for pair in self.pairs if pair[0] in names))
