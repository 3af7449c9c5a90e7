"""A place with its pages, and a browser that reads them, for each module that wants them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.api.doors import Gatehouse
from tests.pages.place import Reader, browser, place, reading


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gatehouse]:
    with place(tmp_path_factory.mktemp("place")) as doors:
        yield doors


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture
def reader(opened: Browser, doors: Gatehouse) -> Iterator[Reader]:
    with reading(opened, doors) as reader:
        yield reader
