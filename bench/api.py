"""`make bench-api`: the HTTP API under load, on a real `meterhouse serve` with the embedded log and its workers inside.

    python -m bench.api [--seconds 300] [--rate 10000] [--events 250] [--key KEY] [--keep FOLDER]

Behind it lie the roll-ups of a hundred million events, of the thirty days before today. A sender publishes batches over
HTTP and an asker asks for reports, each a process of its own. In the end each event that was answered with 204 must be
in the lake, once, and the laws of `verify` must hold as they did before (the history has roll-ups and no charges, so
that their differences are not nought; they must be the same to the last digit).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import duckdb
import httpx
import msgspec
import numpy as np

from bench.api_load import TEMPLATES, TENANTS, Asked, Orders, Sent, events_of
from bench.chargeback import DAYS, bare, build, timed
from bench.report import Row, show
from bench.serving import Serving, apply_control, run_command, serving
from bench.town import budget_of, control_file, cpu_s
from meterhouse.api.clock import now_us
from meterhouse.api.figures import Reports, Span
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.ingest.encode import Encoded, to_messages
from meterhouse.ingest.log import USAGE_EVENTS, TopicSpec
from meterhouse.ingest.split import split
from meterhouse.ingest.sqlite_log import SqliteLog
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports.query import DAY_US
from meterhouse.warehouse.view import EVERYTHING

REQUESTS: Final = 400
"""The most of a group in an hour of the history: some 580,000 groups and hours come to 117 million events."""
MODELS: Final = tuple((f"provider-{number % 2}", f"model-{number}") for number in range(4))
LOOK_S: Final = 2.0
SETTLING: Final = 0.2
"""The first part of a run is not judged for memory: caches fill."""
CAUGHT_UP_S: Final = 120.0
GOAL: Final = "p95 50 ms"
T = TypeVar("T", Sent, Asked)


@dataclass(slots=True)
class Watched:
    """The server, looked at every LOOK_S."""

    at_s: list[float] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)
    dedupe_mib: list[float] = field(default_factory=list)  # of it: the dedupe window, which grows with its ids
    load: list[float] = field(default_factory=list)

    @property
    def other_mib(self) -> list[float]:
        """Resident memory without the dedupe window."""
        return [rss - dedupe for rss, dedupe in zip(self.rss_mib, self.dedupe_mib, strict=True)]

    def slope_mib_per_min(self, values: Sequence[float]) -> float:
        """After the beginning."""
        first = int(len(self.at_s) * SETTLING)
        return float(np.polyfit(self.at_s[first:], values[first:], 1)[0] * 60)


@contextmanager
def watching(server: Serving) -> Iterator[Watched]:
    watched, stop = Watched(), threading.Event()
    statm, page_mib = Path(f"/proc/{server.pid}/statm"), os.sysconf("SC_PAGE_SIZE") / 2**20

    def look() -> None:
        while not stop.wait(LOOK_S):
            said = httpx.get(f"http://{server.address}/metrics", timeout=30).text
            found = re.search(r"^meterhouse_dedupe_bytes (\S+)", said, re.MULTILINE)
            watched.at_s.append(time.monotonic())
            watched.rss_mib.append(int(statm.read_text().split()[1]) * page_mib)
            watched.dedupe_mib.append(float(found[1]) / 2**20 if found else 0.0)
            watched.load.append(os.getloadavg()[0])

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield watched
    finally:
        stop.set()
        looking.join()


def made_home(home: Path) -> tuple[dict[str, int], dict[str, float]]:
    """A home with a history and budgets. Returns its rows by table, and the limit of chargeback in milliseconds."""
    settings = Settings(home=home)
    home.mkdir(parents=True)
    budgets = [budget_of(tenant) for tenant in TENANTS]
    apply_control(home, control_file(TENANTS, budgets, MODELS))
    with Lake.open(LakeConfig(settings.catalogue_path, settings.data_path)) as lake:
        rows = build(lake, now_us() // DAY_US * DAY_US - DAYS * DAY_US, REQUESTS, charges=False)
        cursor = lake.cursor()
        rows["events"] = cursor.execute("SELECT sum(requests)::BIGINT FROM rollup_day").fetchall()[0][0]
        aggregate = bare(lake, "rollup_day")
        return rows, {"p50": timed(aggregate).p50_ms, "cpu": cpu_ms(aggregate)}


def cpu_ms(work: Callable[[], object], times: int = 20) -> float:
    """Of this process, each time."""
    work()
    begin_s = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - begin_s) * 1e3 / times


def chargeback_cpu_ms(home: Path) -> float:
    """Processor time of the month's chargeback as the run left the lake, with one thread as the server has."""
    today_us = now_us() // DAY_US * DAY_US
    month = Span(today_us - 29 * DAY_US, today_us + DAY_US)
    with House(Settings(home=home), writer=True) as house:
        reports = Reports(house, EVERYTHING)
        return cpu_ms(lambda: reports.chargeback(month, ("tenant", "model"), {}))


def differences(home: Path) -> dict[str, str]:
    """By law, what `verify` says that its sides differ by."""
    with House(Settings(home=home)) as house:
        laws = Reports(house, EVERYTHING).verify()["laws"]
    return {f"{law['law']} {law['name']}": str(law["difference"]) for law in laws}


def in_lake(home: Path) -> dict[str, int]:
    """Of the bench's events: those that positions count, charges, and distinct ones among them."""
    with House(Settings(home=home)) as house, house.lake.read() as cursor:
        [(read,)] = cursor.execute('SELECT sum("read")::BIGINT FROM positions').fetchall()
        [(charges, distinct)] = cursor.execute(
            "SELECT count(*), count(DISTINCT \"key\") FROM charges WHERE source LIKE '/bench/%'"
        ).fetchall()
    return {"read": read, "charges": charges, "distinct": distinct}


def started(command: str, address: str, orders: Orders) -> subprocess.Popen[bytes]:
    told = msgspec.json.encode(orders).decode()
    return subprocess.Popen([sys.executable, "-m", "bench.api_load", command, address, told], stdout=subprocess.PIPE)


def finished(client: subprocess.Popen[bytes], kind: type[T]) -> T:
    said, _ = client.communicate()
    if client.returncode:
        raise SystemExit("a client failed")
    return msgspec.json.decode(said, type=kind)


def await_caught_up(home: Path, events: int) -> float:
    """Seconds until the lake has so many."""
    begin_s = time.monotonic()
    with House(Settings(home=home)) as house:
        while time.monotonic() - begin_s < CAUGHT_UP_S:
            with house.lake.read() as cursor:
                [(read,)] = cursor.execute('SELECT sum("read")::BIGINT FROM positions').fetchall()
            if read >= events:
                return time.monotonic() - begin_s
            time.sleep(0.1)
    raise SystemExit(f"the lake has {read:,} of {events:,} events after {CAUGHT_UP_S:.0f} s")


def append_alone(folder: Path, orders: Orders) -> tuple[float, list[float]]:
    """What no ingest can do without: the log's append of such bodies as records, by one thread. CPU microseconds per
    event, and milliseconds of each append."""
    log = SqliteLog(folder / "alone.sqlite", clock=now_us)
    log.create_topics([TopicSpec(USAGE_EVENTS, 4)])
    bodies = [msgspec.json.encode(events_of(seed, orders.events)) for seed in range(TEMPLATES)]
    messages = [list(to_messages(Encoded(*each) for each in split(body))) for body in bodies]
    took_ms, begin_cpu_s = [], time.process_time()
    for number in range(200):
        begin_s = time.perf_counter()
        log.append(USAGE_EVENTS, messages[number % TEMPLATES])
        took_ms.append((time.perf_counter() - begin_s) * 1e3)
    cpu_us = (time.process_time() - begin_cpu_s) * 1e6 / 200 / orders.events
    log.close()
    return cpu_us, took_ms


@dataclass(frozen=True)
class Run:
    """One run's measurements."""

    orders: Orders
    sent: Sent
    asked: Asked
    watched: Watched
    server_cpu_s: float
    took_s: float
    behind_s: float


def run(server: Serving, home: Path, orders: Orders) -> Run:
    with watching(server) as watched:
        begin_s, begin_cpu_s = time.monotonic(), cpu_s([server.pid])
        sender, asker = (started(command, server.address, orders) for command in ("send", "ask"))
        sent, asked = finished(sender, Sent), finished(asker, Asked)
        took_s, server_cpu_s = time.monotonic() - begin_s, cpu_s([server.pid]) - begin_cpu_s
    return Run(orders, sent, asked, watched, server_cpu_s, took_s, await_caught_up(home, sent.accepted))


def quantiles(values_ms: Sequence[float], *percentiles: int) -> str:
    if not values_ms:
        return "none"
    return ", ".join(f"p{each} {np.percentile(values_ms, each):.1f} ms" for each in percentiles)


def tell(done: Run, alone: tuple[float, list[float]], limit: Mapping[str, float], report_cpu_ms: float) -> None:
    orders, sent, asked, watched = done.orders, done.sent, done.asked, done.watched
    append_us, append_ms = alone
    chargeback_ms = asked.answer_ms["chargeback"]
    late = f"{quantiles(append_ms, 50, 99)} append"
    bare_ms, cores = f"{limit['p50']:.1f} ms bare", (done.server_cpu_s, sent.cpu_s, asked.cpu_s)
    share = f"{limit['p50'] / float(np.percentile(chargeback_ms, 50)):.0%}"
    memory = (watched.rss_mib[0], watched.rss_mib[-1], max(watched.rss_mib))
    slope, other = (watched.slope_mib_per_min(each) for each in (watched.rss_mib, watched.other_mib))
    event_us = done.server_cpu_s * 1e6 / sent.accepted
    rows = [
        Row("events a second, all with 204", f"{sent.accepted / sent.took_s:,.0f}", goal=f"{orders.rate:,}"),
        Row(f"ingest of {orders.events} events, from when due", quantiles(sent.late_ms, 50, 99), late),
        Row("  from when sent", quantiles(sent.answer_ms, 50, 99), late),
        Row("bodies sent again", str(sent.again), goal="0"),
        Row("server's CPU an event, reports and all", f"{event_us:.1f} us", f"{append_us:.1f} us append"),
        Row("cores: server, sender, asker", ", ".join(f"{used / done.took_s:.2f}" for used in cores)),
        Row("chargeback, a month by tenant, model", quantiles(chargeback_ms, 50, 95), bare_ms, share, GOAL),
        Row("  first on a lake snapshot", quantiles(asked.fresh_ms, 50, 95)),
        Row("  again on the same one", quantiles(asked.known_ms, 50, 95)),
        Row("  its CPU, without HTTP, after the run", f"{report_cpu_ms:.1f} ms", f"{limit['cpu']:.1f} ms bare",
            f"{limit['cpu'] / report_cpu_ms:.0%}"),
        *(Row(name, quantiles(taken, 50, 95)) for name, taken in asked.answer_ms.items() if name != "chargeback"),
        Row("server's memory: first, last, most", ", ".join(f"{each:,.0f} MiB" for each in memory)),
        Row("  its slope after the first fifth", f"{slope:+.1f} MiB/min"),
        Row("  without the dedupe window's ids", f"{other:+.1f} MiB/min", goal="flat"),
        Row("the lake has all, after the last 204", f"{done.behind_s:.1f} s"),
        Row("load average of the machine: mean, most", f"{np.mean(watched.load):.1f}, {max(watched.load):.1f}"),
    ]  # fmt: skip
    show(f"HTTP API: {orders.seconds:.0f} s at {orders.rate:,} events/s, reports beside, {os.cpu_count()} cores", rows)


def check(before: Mapping[str, str], after: Mapping[str, str], stored: Mapping[str, int], sent: Sent) -> list[str]:
    """What does not hold."""
    wrong = [f"the lake has {stored}, the sender {sent.accepted}"] if set(stored.values()) != {sent.accepted} else []
    laws = sorted(before.keys() | after.keys())
    return wrong + [
        f"law {law} differs by {after.get(law)}, before by {before.get(law)}"
        for law in laws
        if after.get(law, "0") != before.get(law, "0")
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--rate", type=int, default=10_000, help="events a second")
    parser.add_argument("--events", type=int, default=250, help="events in a body")
    parser.add_argument("--key", default="", help="API key of a server with authentication")
    parser.add_argument("--keep", type=Path, help="folder for the home, kept afterwards (must not exist)")
    given = parser.parse_args()
    orders = Orders(given.seconds, given.rate, given.events, key=given.key)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        home = folder / "home"
        rows, limit = made_home(home)
        print(", ".join(f"{name} {count:,}" for name, count in rows.items()), f"· DuckDB {duckdb.__version__}")
        alone = append_alone(folder, orders)
        run_command(home, "work", "--until-idle")  # publishes the budget totals of the history
        before = differences(home)
        with serving(home) as server:
            done = run(server, home, orders)
        tell(done, alone, limit, chargeback_cpu_ms(home))
        wrong = check(before, differences(home), in_lake(home), done.sent)
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(
        f"nothing lost: {done.sent.accepted:,} events answered with 204 are in the lake, once; {len(before)} laws hold"
    )


if __name__ == "__main__":
    main()
