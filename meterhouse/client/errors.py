"""What may go wrong. Every error of the client is a MeterhouseError."""

from __future__ import annotations

import json
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

MEDIA_TYPE: Final = "application/problem+json"
_SHOWN_CHARACTERS: Final = 200
"""Of an answer that is no problem document: enough to tell a proxy's page by."""


class MeterhouseError(Exception):
    """A call did not succeed."""


class Unreachable(MeterhouseError):
    """There was no answer in time. What was asked for may have been done: see `may_be_done`."""

    def __init__(self, said: str, *, may_be_done: bool) -> None:
        super().__init__(said)
        self.may_be_done = may_be_done


class BadAnswer(MeterhouseError):
    """The answer is not what this API answers: there may be something else at this address."""


class Problem(MeterhouseError):
    """The server's problem document (RFC 9457). `name` is the last part of its `type`, and stable; `detail` says what
    to do; `members` are those beside the standard ones."""

    def __init__(self, status: int, body: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status = status
        self.type = str(body.get("type", "about:blank"))
        self.name = self.type.rpartition("/")[2]
        self.title, self.detail = str(body.get("title", "")), str(body.get("detail", ""))
        self.instance = body.get("instance")
        self.members = {name: value for name, value in body.items() if name not in _STANDARD}
        self.retry_after_s = retry_after_s
        super().__init__(f"{status} {self.name}: {self.detail or self.title}")


class InvalidRequest(Problem):
    """The request is wrong and will be: 400, 405, 406, 415."""


class Unauthenticated(Problem):
    """The key is missing, wrong, expired or revoked."""


class Forbidden(Problem):
    """The key's role may not do this."""


class NotFound(Problem):
    """There is no such thing, or it is not this key's to see."""


class Conflict(Problem):
    """It does not fit what was done before."""


class TooLarge(Problem):
    """The body is larger than the server takes: a single event, where events were published."""


class Refused(Problem):
    """A budget does not admit the request now."""

    @property
    def reason(self) -> str | None:
        return self.members.get("reason")

    @property
    def budget(self) -> str | None:
        return self.members.get("budget")

    @property
    def retryable(self) -> bool:
        """May trying again help? If not, only a new window or a higher limit does."""
        return bool(self.members.get("retryable"))


class RateLimited(Problem):
    """Too many requests of this key."""


class Unavailable(Problem):
    """The server, or a proxy before it, cannot do this now."""


class LogFull(Problem):
    """The event log takes no more: whoever runs the server must see to it."""


class ServerFailed(Problem):
    """Something failed on the server's side."""


_STANDARD: Final = {"type", "title", "status", "detail", "instance"}
_BY_NAME: Final[Mapping[str, type[Problem]]] = {"budget-refusal": Refused, "log-full": LogFull}
_BY_STATUS: Final[Mapping[int, type[Problem]]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    429: RateLimited,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def problem_of(status: int, headers: Mapping[str, str], body: bytes) -> Problem:
    """The error that an answer stands for: a problem document, or whatever a proxy says."""
    document: Mapping[str, Any] = {"detail": body[:_SHOWN_CHARACTERS].decode(errors="replace")}
    if headers.get("content-type", "").partition(";")[0].strip() == MEDIA_TYPE:
        try:
            read = json.loads(body)
        except ValueError:
            read = None
        document = read if isinstance(read, dict) else document
    fallback = InvalidRequest if status < 500 else ServerFailed
    name = str(document.get("type", "")).rpartition("/")[2]
    kind = _BY_NAME.get(name) or _BY_STATUS.get(status, fallback)
    return kind(status, document, retry_after_s(headers))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds; of one that is a date, by the answer's own date, since clocks differ."""
    said = headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return float(said)
    try:
        later, now = parsedate_to_datetime(said), parsedate_to_datetime(headers.get("date", ""))
    except ValueError:
        return None
    return max(0.0, (later - now).total_seconds())
