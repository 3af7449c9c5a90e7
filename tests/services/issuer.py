"""An OpenID Connect issuer for tests: discovery and keys over HTTP on a free port of this machine, and tokens signed
with whatever key a test wants."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE: Final = "meterhouse"

Asked = Mapping[str, str]


@dataclass(frozen=True)
class Said:
    """An answer: its status, a document or nothing, and where it leads."""

    status: int
    document: Any = None
    location: str = ""


@dataclass
class Issuer:
    """Publishes the public halves of `keys` (by key id); `asked` counts how often they were fetched."""

    url: str
    keys: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = field(default_factory=dict)
    asked: int = 0
    away: bool = False

    def add_key(self, key_id: str, *, curve: bool = False) -> None:
        made = ec.generate_private_key(ec.SECP256R1()) if curve else rsa.generate_private_key(65_537, 2_048)
        self.keys[key_id] = made

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Of a sound token of an admin, `changes` made; None leaves a claim out."""
        now_s = int(time.time())
        sound = {"iss": self.url, "aud": AUDIENCE, "sub": "ann", "iat": now_s, "exp": now_s + 300}
        changed = {**sound, "name": "Ann", "meterhouse_role": "admin", **changes}
        return {name: value for name, value in changed.items() if value is not None}

    def token(self, key_id: str = "first", **changes: Any) -> str:
        key = self.keys[key_id]
        algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        return jwt.encode(self.claims(**changes), key, algorithm, {"kid": key_id})

    def documents(self) -> dict[str, Any]:
        keys = [_public(key_id, key) for key_id, key in self.keys.items()]
        return {
            "/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}/keys"},
            "/keys": {"keys": keys},
        }

    def got(self, path: str, asked: Asked) -> Said:
        self.asked += path == "/keys"
        found = None if self.away else self.documents().get(path)
        return Said(404 if found is None else 200, found)

    def posted(self, path: str, form: Asked, authorization: str) -> Said:
        return Said(404)


def _public(key_id: str, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": "sig"}
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": "sig"}


Kind = TypeVar("Kind", bound=Issuer)


@contextmanager
def own_issuer(kind: type[Kind] = Issuer, host: str = "127.0.0.1") -> Iterator[Kind]:  # type: ignore[assignment]
    """An issuer with the key `first`, under this name of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            self.say(there.got(parts.path, dict(parse_qsl(parts.query))))

        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["content-length"])).decode()
            self.say(there.posted(self.path, dict(parse_qsl(form)), self.headers.get("authorization", "")))

        def say(self, said: Said) -> None:
            body = json.dumps(said.document).encode()
            self.send_response(said.status)
            if said.location:
                self.send_header("location", said.location)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    there = kind(f"http://{host}:{server.server_port}")
    there.add_key("first")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield there
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
