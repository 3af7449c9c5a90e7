"""Authentication: what it adds to a request, in CPU time of one call, median of interleaved runs.

`python -m bench.authentication`. The limit of a key is its SHA-256 alone; of a token, the check of its signature alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jwt
from starlette.requests import Request

from bench.decode import interleaved
from bench.report import Row, show
from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.ownership import Ownership
from meterhouse.api.auth.rates import Rates
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.warehouse.api_keys import NewKey
from tests.services.issuer import AUDIENCE, own_issuer

CALLS: Final = 2_000


def request(credentials: str) -> Request:
    headers = [(b"host", b"meterhouse.example"), (b"authorization", f"Bearer {credentials}".encode())]
    return Request({"type": "http", "headers": headers})


def main() -> None:
    with own_issuer() as issuer, tempfile.TemporaryDirectory() as folder:
        issuer.add_key("curve", curve=True)
        settings = Settings(home=Path(folder), oidc_issuer=issuer.url, oidc_audience=AUDIENCE)
        with House(settings) as house, asyncio.Runner() as runner:
            key = house.keys.create(NewKey(name="bench", role="gateway"), "bench", now_us()).text
            tokens = {"RS256": issuer.token(meterhouse_role="gateway"), "ES256": issuer.token("curve")}
            doors, rates, owners = house.authentication, Rates(settings.rates()), Ownership()

            def asked(credentials: str) -> Callable[[], Any]:
                async def ask() -> None:
                    for _ in range(CALLS):
                        await doors.caller_of(request(credentials))

                return lambda: runner.run(ask())

            who = runner.run(doors.caller_of(request(key)))
            signed = {name: token.rpartition(".") for name, token in tokens.items()}
            keys = {"RS256": issuer.keys["first"].public_key(), "ES256": issuer.keys["curve"].public_key()}

            def check(name: str) -> None:
                algorithm = jwt.get_algorithm_by_name(name)
                head, _, signature = signed[name]
                raw = jwt.utils.base64url_decode(signature)
                for _ in range(CALLS):
                    assert algorithm.verify(head.encode(), keys[name], raw)

            calls: dict[str, Callable[[], Any]] = {
                "a request object": lambda: [request(key) for _ in range(CALLS)],
                "sha256": lambda: [hashlib.sha256(key.encode()).digest() for _ in range(CALLS)],
                "key": asked(key),
                "rate": lambda: [rates.count(who, Permission.admit) for _ in range(CALLS)],
                "reservation": lambda: [owners.inside(owners.outside("5f0c-1a", who), who) for _ in range(CALLS)],
                **{name: asked(token) for name, token in tokens.items()},
                **{f"{name} alone": lambda name=name: check(name) for name in tokens},
            }
            us = {name: seconds / CALLS * 1e6 for name, seconds in interleaved(calls).items()}
    taken = us["a request object"]
    rows = [
        _row("who shows this key", us["key"] - taken, us["sha256"]),
        _row("who shows this token, RS256", us["RS256"] - taken, us["RS256 alone"]),
        _row("who shows this token, ES256", us["ES256"] - taken, us["ES256 alone"]),
        _row("one more against the caller's rate", us["rate"]),
        _row("a reservation named and found again", us["reservation"]),
    ]
    show("Authentication: CPU time a request", rows)


def _row(figure: str, reached_us: float, limit_us: float | None = None) -> Row:
    if limit_us is None:
        return Row(figure, f"{reached_us:.1f} µs")
    return Row(figure, f"{reached_us:.1f} µs", f"{limit_us:.1f} µs", f"{limit_us / reached_us:.0%}")


if __name__ == "__main__":
    main()
