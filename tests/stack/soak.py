"""`make soak`: the processes of docker-compose.yml under load, each lost once, and what was asked meanwhile judged.

    python -m tests.stack.soak [--seconds 300] [--rate 1000] [--lose meter-1,api-1] [--keep FOLDER]

A gateway publishes over HTTP, and somebody asks for the bill twice a second. In the end each event that was answered
with 204 is in the lake, once; `verify` finds nothing; and each bill was right: what it says is what all records before
its offsets come to, and no record that it lacks is older than it says.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import httpx
import msgspec

from bench.api_load import TENANTS, Orders, Sent
from bench.town import budget_of, control_file
from tests.stack.containers import Twin
from tests.stack.judge import Judge, settings_of
from tests.stack.stack import Stack, running

PROCESSES: Final = (
    "meter-1", "budget-worker-1", "api-1", "meter-2", "alert-sender-1", "budget-worker-2", "quality-1", "prometheus-1",
    "alertmanager-1", "meter-1+meter-2",
)  # fmt: skip
"""Each once, and then nobody meters."""
SERVERS: Final = ("kafka-1", "postgres-1", "s3-1")
MODELS: Final = tuple((f"provider-{number % 2}", f"model-{number}") for number in range(4))
BILL: Final = "/v1/chargeback?from=2026-01-01&to=2100-01-01&group_by=tenant,model"
ASK_S: Final = 0.5
AWAY_S: Final = 8.0
"""How long a server is away: more than its clients wait for one answer."""
IN_FLIGHT_S: Final = 2.0
"""How long a record may be on its way into the log, which tells the time at which it set out, on a busy machine."""
SETTLED_S: Final = 15.0
"""Until what waited for the log is in it."""
CAUGHT_UP_S: Final = 180.0
WATCHED: Final = "soon-spent"


@dataclass(frozen=True)
class Answer:
    """What came of one question, asked and answered when; `status` 0: nobody answered."""

    asked_s: float
    answered_s: float
    status: int
    said: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outage:
    """`names` were away or starting from `from_s` to `to_s`."""

    names: Sequence[str]
    from_s: float
    to_s: float

    @property
    def excuses(self) -> bool:
        """Whether a question may be left without an answer: the server is away, or what it reads from."""
        return bool({"api-1", *SERVERS} & {*self.names})


@dataclass
class Outcome:
    sent: Sent
    answers: list[Answer]
    outages: list[Outage]
    caught_up_s: float
    differences: list[str] = field(default_factory=list)
    late_s: float = 0.0  # by how much a bill said to be newer than it was, at most
    resident_mib: dict[str, float] = field(default_factory=dict)  # of a process of each kind, at most
    left: dict[str, list[int]] = field(default_factory=dict)  # exit codes of those that went by themselves

    def during(self, outage: Outage) -> list[Answer]:
        return [each for each in self.answers if each.asked_s <= outage.to_s and each.answered_s >= outage.from_s]

    def without_the_log(self, answer: Answer) -> bool:
        """Whether records may have been on their way to it for long: they carry the time at which they set out."""
        away = [outage for outage in self.outages if "kafka-1" in outage.names]
        return any(each.from_s - IN_FLIGHT_S <= answer.asked_s <= each.to_s + SETTLED_S for each in away)


def soaked(stack: Stack, seconds: float, rate: int, lost: Sequence[str]) -> Outcome:
    """Runs it; `lost`: instances that die one after the other, at even distances (`a+b`: together)."""
    keys = prepared(stack)
    orders = Orders(seconds, rate, events=100, key=keys["gateway"])
    with asking(stack, keys["finance"]) as answers, sending(stack, orders) as sender:
        outages = list(losing(stack, seconds, lost))
        said, _ = sender.communicate()
        assert sender.returncode == 0, "the gateway gave up"
        sent = msgspec.json.decode(said, type=Sent)
        begin_s = time.monotonic()
        await_bill(stack, keys["finance"], sent.accepted)
        outcome = Outcome(sent, answers, outages, time.monotonic() - begin_s)
    judge(stack, outcome)
    outcome.resident_mib = most_resident(stack)
    for name, container in stack.containers.items():
        if container.service.restarts and (codes := [code for code in container.codes if code != -signal.SIGKILL]):
            outcome.left[name] = codes
            if min(codes) < 0:
                outcome.differences.append(f"{name} broke down: {codes}")
    return outcome


def prepared(stack: Stack) -> dict[str, str]:
    """Control data and keys, as an operator gives them; the keys by role."""
    soon = budget_of("tenant-0", "0.01", id=WATCHED)
    file = stack.town.folder / "control.yaml"
    file.write_text(control_file(TENANTS, [*(budget_of(each) for each in TENANTS), soon], MODELS), encoding="utf-8")
    stack.meterhouse("api", "apply", str(file))
    roles = ("gateway", "finance")
    return {
        role: stack.meterhouse("api", "keys", "create", "--role", role, "--name", role).split()[-1] for role in roles
    }


@contextmanager
def sending(stack: Stack, orders: Orders) -> Iterator[subprocess.Popen[bytes]]:
    told = msgspec.json.encode(orders).decode()
    command = [sys.executable, "-m", "bench.api_load", "send", stack.town.address("api-1"), told]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as sender:
        try:
            yield sender
        finally:
            sender.kill()


@contextmanager
def asking(stack: Stack, key: str) -> Iterator[list[Answer]]:
    """Asks for the bill until the context ends."""
    answers: list[Answer] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(headers={"authorization": f"Bearer {key}"}, timeout=30) as client:
            while not stop.wait(ASK_S):
                asked_s, status, said = time.monotonic(), 0, {}
                with suppress(httpx.TransportError):
                    answer = client.get(stack.url("api-1") + BILL)
                    status, said = answer.status_code, answer.json()
                answers.append(Answer(asked_s, time.monotonic(), status, said))

    asker = threading.Thread(target=ask, name="asker")
    asker.start()
    try:
        yield answers
    finally:
        stop.set()
        asker.join()


def losing(stack: Stack, seconds: float, lost: Sequence[str]) -> Iterator[Outage]:
    """Each when its time has come, once those before are up again."""
    begin_s = time.monotonic()
    for number, names in enumerate(each.split("+") for each in lost):
        time.sleep(max(0.0, begin_s + (number + 0.5) * seconds / len(lost) - time.monotonic()))
        from_s = time.monotonic()
        containers = [stack.containers[name] for name in names]
        starts = [each.starts for each in containers]
        for each in containers:
            each.kill()
        for each, before in zip(containers, starts, strict=True):
            if isinstance(each, Twin):
                time.sleep(AWAY_S)
                each.back()
            else:
                await_start(each, before + 1)
            stack.await_healthy(each.place.name)
        yield Outage(names, from_s, time.monotonic())


def await_start(container: Any, starts: int) -> None:
    deadline = time.monotonic() + 30
    while container.starts < starts:
        assert time.monotonic() < deadline, f"{container.place.name} is not started again"
        time.sleep(0.05)


def await_bill(stack: Stack, key: str, events: int) -> None:
    """Until the bill has all events."""
    deadline = time.monotonic() + CAUGHT_UP_S
    while (found := stack.json("api-1", BILL, key)["total"]["requests"]) < events:
        assert time.monotonic() < deadline, f"the bill has {found:,} of {events:,} events after {CAUGHT_UP_S:.0f} s"
        time.sleep(ASK_S)


def judge(stack: Stack, outcome: Outcome) -> None:
    verified = stack.containers["api-1"].run("meterhouse", "verify", "--format", "json", timeout_s=CAUGHT_UP_S)
    wrong = outcome.differences
    if verified.returncode != 0 or not json.loads(verified.stdout)["balanced"]:
        wrong.append(f"verify left with {verified.returncode}: {verified.stdout[-2_000:]}{verified.stderr[-2_000:]}")
    with Judge.of(settings_of(stack.containers["api-1"])) as truth:
        if {truth.charges, truth.distinct} != {outcome.sent.accepted}:
            wrong.append(
                f"{outcome.sent.accepted} events were taken; {truth.charges} are billed, {truth.distinct} of them once"
            )
        bills = [each for each in outcome.answers if each.status == 200]
        wrong += [problem for each in bills if (problem := truth.wrong(each.said))]
        outcome.late_s = max(
            (truth.late_s(each.said) for each in bills if not outcome.without_the_log(each)), default=0.0
        )
    if outcome.late_s > IN_FLIGHT_S:
        wrong.append(f"a bill lacks a record that is {outcome.late_s:.3f} s older than it says")
    excused = [each for outage in outcome.outages if outage.excuses for each in outcome.during(outage)]
    unexcused = [each for each in outcome.answers if each.status != 200 and each not in excused]
    wrong += [f"a bill was answered with {each.status} at {each.asked_s}: {each.said}" for each in unexcused]
    fired = {alert["labels"].get("subject") for alert in stack.json("alertmanager-1", "/api/v2/alerts")}
    if WATCHED not in fired:
        wrong.append(f"Alertmanager was told of {fired}, and not of {WATCHED}")


def most_resident(stack: Stack) -> dict[str, float]:
    """As Prometheus scraped it."""
    asked = urlencode({"query": "max by (process) (max_over_time(process_resident_memory_bytes[1h]))"})
    found = stack.json("prometheus-1", f"/api/v1/query?{asked}")["data"]["result"]
    return {each["metric"]["process"]: float(each["value"][1]) / 2**20 for each in found}


def tell(outcome: Outcome) -> None:
    sent = outcome.sent
    print(f"{sent.accepted:,} events answered with 204 in {sent.took_s:.0f} s; {sent.again} bodies sent again")
    print(f"the bill had all of them {outcome.caught_up_s:.1f} s after the last 204")
    answered = [each for each in outcome.answers if each.status == 200]
    print(
        f"{len(answered)} of {len(outcome.answers)} questions answered; {outcome.late_s:.3f} s newer than true at most"
    )
    print(f"{'lost':24}{'up again':>10}{'bills':>7}{'none':>6}{'oldest':>9}")
    for outage in outcome.outages:
        asked = outcome.during(outage)
        bills = [each.said for each in asked if each.status == 200]
        lags = [bill["as_of"]["lag_seconds"] for bill in bills]
        oldest = "unknown" if None in lags else f"{max(lags, default=0):.1f} s"
        away = f"{outage.to_s - outage.from_s:.1f} s"
        print(f"{' and '.join(outage.names):24}{away:>10}{len(bills):>7}{len(asked) - len(bills):>6}{oldest:>9}")
    print(", ".join(f"{name} {mib:,.0f} MiB" for name, mib in sorted(outcome.resident_mib.items())))
    print(f"went by themselves, with their exit codes: {outcome.left or 'none'}")
    print("\n".join(outcome.differences) or "nothing differs; verify is clean")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--rate", type=int, default=1_000, help="events a second")
    parser.add_argument("--lose", default=",".join([*PROCESSES, *SERVERS]), help="instances, one after the other")
    parser.add_argument("--keep", type=Path, help="folder for logs and files, kept afterwards (must not exist)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meterhouse-stack-") as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(exist_ok=given.keep is None)
        begin_s = time.monotonic()
        with running(folder) as stack:
            print(f"{len(stack.containers)} containers up after {time.monotonic() - begin_s:.0f} s", flush=True)
            outcome = soaked(stack, given.seconds, given.rate, given.lose.split(","))
        tell(outcome)
    if outcome.differences:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
