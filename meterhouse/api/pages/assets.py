"""Files that pages load: styles of ours, and scripts that `make pages` builds. All in memory, each under its name."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request, Response

from meterhouse.api.operations import PAGES
from meterhouse.api.problems import Problem

HOW_TO_BUILD: Final = "run `make pages`, which needs Node.js 20 or later, and start the server again"
_TYPES: Final = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_BUILT: Final = frozenset({"pages.js", "charts.js"})


@dataclass(frozen=True, slots=True)
class Asset:
    media_type: str
    body: bytes
    zipped: bytes
    tag: str


class Assets:
    """Read once. A file is asked for with its hash, so that a browser keeps it until it changes."""

    def __init__(self) -> None:
        folder = files("meterhouse.api.pages") / "static"
        found = [*folder.iterdir()]
        found += [*(folder / "built").iterdir()] if (folder / "built").is_dir() else []
        self._files = {
            each.name: _asset(each.name.rpartition(".")[2], each.read_bytes())
            for each in found
            if each.name.rpartition(".")[2] in _TYPES
        }

    @property
    def are_built(self) -> bool:
        """Whether scripts are there. Without them pages show the same figures, in tables, and no charts."""
        return self._files.keys() >= _BUILT

    def path(self, name: str) -> str:
        """Where a page loads it from."""
        return f"/static/{name}?{self._files[name].tag}" if name in self._files else f"/static/{name}"

    def has(self, name: str) -> bool:
        return name in self._files

    def answer(self, name: str, request: Request) -> Response:
        """Raises Problem (`not-found`)."""
        asset = self._files.get(name)
        if asset is None:
            why = f" Scripts are not built: {HOW_TO_BUILD}." if name.endswith(".js") and not self.are_built else ""
            raise Problem("not-found", f"There is no file of this name.{why}")
        named = request.url.query == asset.tag
        headers = {"Cache-Control": _FOR_EVER if named else "no-cache", "Vary": "Accept-Encoding"}
        if takes_gzip(request):
            headers["Content-Encoding"] = "gzip"
        body = asset.zipped if "Content-Encoding" in headers else asset.body
        return Response(body, headers=headers, media_type=asset.media_type)


def takes_gzip(request: Request) -> bool:
    """Whether whoever asks unpacks gzip. `gzip;q=0` says that they do not."""
    offered = [each.replace(" ", "").lower() for each in request.headers.get("accept-encoding", "").split(",")]
    return any(each == "gzip" or (each.startswith("gzip;q=") and each[7:].strip("0.")) for each in offered)


def _asset(suffix: str, body: bytes) -> Asset:
    zipped = gzip.compress(body, 9, mtime=0)
    return Asset(_TYPES[suffix], body, zipped, hashlib.sha256(body).hexdigest()[:12])


router = APIRouter(include_in_schema=False, tags=[PAGES])


@router.get("/static/{name}")
async def static_file(request: Request, name: str) -> Response:
    assets = request.app.state.pages.assets
    assert isinstance(assets, Assets)
    return assets.answer(name, request)
