"""The topics of Meterhouse, declared in one place, and what it takes to make a cluster's topics like them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from meterhouse.ingest.log import BUDGET_ALERTS, BUDGET_STATES, BUDGET_TOTALS, USAGE_EVENTS, USAGE_REJECTED, TopicSpec
from meterhouse.ingest.log_limits import MAX_RECORD_BYTES, check_spec

DAY_US: Final = 86_400 * 1_000_000
REJECTED_RETENTION_US: Final = 35 * DAY_US  # as long as an event may be late, so a reject can be mended while it counts
ALERTS_RETENTION_US: Final = 100 * DAY_US  # a month, 35 days of lateness, and some
BUDGET_PARTITIONS: Final = 4
"""Of budget topics on Kafka, for ever: budgets are placed by their hash, so new partitions would move them away from
what was said of them. Four workers take the totals of tens of thousands of budgets."""

_HOUR_MS: Final = 3_600_000


def declared(*, partitions: int, retention_us: int, budget_partitions: int = BUDGET_PARTITIONS) -> list[TopicSpec]:
    """All topics on Kafka. `partitions` and `retention_us` are those of `usage.events`."""
    return [
        TopicSpec(USAGE_EVENTS, partitions, retention_us=retention_us),
        TopicSpec(USAGE_REJECTED, partitions, retention_us=REJECTED_RETENTION_US),
        *budget_topics(budget_partitions),
    ]


def embedded(*, partitions: int, retention_us: int) -> list[TopicSpec]:
    """All topics of the embedded log: one process reads them, so partitions of the small ones would buy nothing."""
    return [
        TopicSpec(USAGE_EVENTS, partitions, retention_us=retention_us),
        TopicSpec(USAGE_REJECTED, 1, retention_us=REJECTED_RETENTION_US),
        *budget_topics(partitions=1),
    ]


def budget_topics(partitions: int) -> list[TopicSpec]:
    """The three topics as meter and budget worker need them."""
    return [
        TopicSpec(BUDGET_TOTALS, partitions, compacted=True),
        TopicSpec(BUDGET_STATES, partitions, compacted=True),
        TopicSpec(BUDGET_ALERTS, partitions, retention_us=ALERTS_RETENTION_US),
    ]


def config_of(spec: TopicSpec, replication: int) -> dict[str, str]:
    """What is set of a topic in Kafka."""
    config = {
        "cleanup.policy": "compact" if spec.compacted else "delete",
        "retention.ms": "-1" if spec.retention_us is None else str(spec.retention_us // 1_000),
        "compression.type": "zstd",
        # A batch of one record of the largest size, and its frame.
        "max.message.bytes": str(MAX_RECORD_BYTES + 65_536),
        # With three copies one broker may be away without a record being lost, or refused.
        "min.insync.replicas": "2" if replication >= 3 else "1",
        # The time of a record is its arrival, which `replay` states; nobody may push it into the future, since
        # arrival never goes back.
        "message.timestamp.type": "CreateTime",
        "message.timestamp.after.max.ms": str(_HOUR_MS),
    }
    if spec.compacted:
        # Few keys that change all the time: compacted within an hour, so that a worker reads little when it starts.
        config |= {
            "segment.bytes": str(64 * 1024**2),
            "segment.ms": str(_HOUR_MS),
            "min.cleanable.dirty.ratio": "0.1",
            "max.compaction.lag.ms": str(_HOUR_MS),
            # An older total that a meter said last does not outlive the newer one before a worker has read both.
            "min.compaction.lag.ms": str(_HOUR_MS // 6),
        }
    return config


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as it is in Kafka. `config`: all that is in force, defaults too."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopicChange:
    """One step towards the declared topics: create (`before` None), add partitions, or set one option."""

    topic: str
    what: str
    before: str | None
    after: str

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.topic}: {self.after}"
        return f"~ {self.topic}: {self.what} {self.before} -> {self.after}"


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """What is to be done, and what stands against it: with `problems`, nothing is."""

    create: tuple[TopicSpec, ...] = ()
    grow: tuple[TopicSpec, ...] = ()
    configure: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    changes: tuple[TopicChange, ...] = ()
    problems: tuple[str, ...] = ()


PARTITIONS: Final = "partitions"
_FIXED: Final = frozenset({BUDGET_TOTALS, BUDGET_STATES, BUDGET_ALERTS})
"""Their partitions stay as they are."""


def plan_topics(specs: Sequence[TopicSpec], there: Mapping[str, TopicState], replication: int) -> TopicPlan:
    """What makes `there` like `specs`. Raises LogError for a name or partition count out of bounds."""
    for spec in specs:
        check_spec(spec)
    known = [(spec, there[spec.name]) for spec in specs if spec.name in there]
    options = {spec.name: _other_options(spec, state, replication) for spec, state in known}
    grow = [(spec, state) for spec, state in known if spec.partitions > state.partitions]
    create = tuple(spec for spec in specs if spec.name not in there)
    changes = [
        *(TopicChange(spec.name, "new", None, _described(spec, replication)) for spec in create),
        *(TopicChange(s.name, PARTITIONS, str(state.partitions), str(s.partitions)) for s, state in grow),
        *(
            TopicChange(spec.name, name, state.config.get(name, "unset"), value)
            for spec, state in known
            for name, value in options[spec.name].items()
        ),
    ]
    return TopicPlan(
        create=create,
        grow=tuple(spec for spec, _ in grow),
        configure={name: changed for name, changed in options.items() if changed},
        changes=tuple(changes),
        problems=tuple(problem for spec, state in known for problem in _problems(spec, state, replication)),
    )


def _other_options(spec: TopicSpec, state: TopicState, replication: int) -> dict[str, str]:
    wanted = config_of(spec, replication)
    return {name: value for name, value in wanted.items() if state.config.get(name) != value}


def _described(spec: TopicSpec, replication: int) -> str:
    options = ", ".join(f"{name}={value}" for name, value in config_of(spec, replication).items())
    return f"{spec.partitions} partitions, replication {replication}, {options}"


def _problems(spec: TopicSpec, state: TopicState, replication: int) -> Iterator[str]:
    if spec.partitions < state.partitions:
        yield (
            f"topic {spec.name} has {state.partitions} partitions, not {spec.partitions}, and cannot lose any:"
            f" set {state.partitions}"
        )
    if spec.partitions > state.partitions and spec.name in _FIXED:
        yield (
            f"topic {spec.name} has {state.partitions} partitions, not {spec.partitions}: new ones would move budgets"
            " away from what was said of them. Stop the workers, delete the topic and apply again: totals come from"
            " the lake"
        )
    if replication != state.replication:
        yield (
            f"topic {spec.name} has replication {state.replication}, not {replication}: set METERHOUSE_REPLICATION to"
            f" {state.replication}, or move its replicas with kafka-reassign-partitions first"
        )
    compacted = state.config.get("cleanup.policy", "")
    if spec.compacted != ("compact" in compacted):
        yield (
            f"topic {spec.name} is {'' if 'compact' in compacted else 'not '}compacted, and that cannot change: "
            "declare it as it is, or take another name"
        )
