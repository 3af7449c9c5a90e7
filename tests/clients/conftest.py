"""What tests of foreign clients share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from meterhouse.api.app import create_app
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from tests.api.serving import served
from tests.clients.house import CONTROL, Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    settings = Settings(home=tmp_path / "home", max_body_bytes=400_000)  # type: ignore[call-arg]
    with House(settings, writer=True) as house:
        app = create_app(house)
        with served(app) as client:
            app.state.authenticator = site = Site(house, client)
            site.apply(CONTROL)
            yield site
