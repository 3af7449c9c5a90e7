"""Fixtures of the end-to-end tests: one replayed home per trace, shared by all who only read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.e2e.house import CONTROL, START, House
from tests.oracle import books
from tests.oracle.traces import FILES, SHARED, Trace, trace

GROUPS = ("tenant", "application", "model")


@dataclass(frozen=True)
class Books:
    """A home into which a trace was replayed, and what the oracle says of it."""

    house: House
    trace: Trace
    control: books.Control
    charges: list[books.Charge]

    def bill(self, group_by: tuple[str, ...] = GROUPS) -> dict[str, object]:
        return books.chargeback(self.control, self.charges, group_by)


Make = Callable[[str], Trace]


@pytest.fixture(scope="session")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The trace of a format: the real one, or a made-up one where it is absent."""
    folder = tmp_path_factory.mktemp("traces")
    return lambda trace_format: trace(trace_format, folder)


@pytest.fixture(scope="session")
def control() -> books.Control:
    return books.read_control(CONTROL)


@pytest.fixture(scope="session")
def applied(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A home with nothing but control data, only to be read or copied."""
    house = House(tmp_path_factory.mktemp("applied") / "home")
    house.run("apply", str(CONTROL))
    return house


@pytest.fixture(scope="session")
def replayed(
    traces: Make, control: books.Control, applied: House, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Books]:
    """The books of a trace, made once. Tests read this home; one that writes takes a copy."""
    made: dict[str, Books] = {}

    def of(trace_format: str) -> Books:
        if trace_format not in made:
            house, one = applied.copy(tmp_path_factory.mktemp(trace_format) / "home"), traces(trace_format)
            house.run("replay", str(one.path), "--format", trace_format, "--start", START)
            house.run("work", "--until-idle")
            events = books.replayed(control, one.path, trace_format, books.microseconds(START))
            made[trace_format] = Books(house, one, control, books.charges(control, events))
        return made[trace_format]

    return of


def trace_id(trace_format: str) -> str:
    real = (SHARED / FILES[trace_format]).is_file()
    return trace_format if real else f"{trace_format} (made up, ../shared/traces is absent)"


@pytest.fixture(params=sorted(FILES), ids=trace_id)
def kept(request: pytest.FixtureRequest, replayed: Callable[[str], Books]) -> Books:
    """Books of each trace in turn, only to be read."""
    return replayed(request.param)
