"""Foreign event types: where in a foreign document the fields of a usage event are. Values.

An event type gives for each field a few *sources* in order: a path into the document, or a constant. The first that is
there counts; of tenant and model the first that control data knows. What a format tells by itself (times, statuses,
counts of LiteLLM and OpenTelemetry) needs no source, and yields to one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from meterhouse.ingest.fields import REQUEST_FIELDS

TENANT: Final = "tenant"
FIELDS: Final = (TENANT, *(entry.name for entry in REQUEST_FIELDS if entry.kind != "labels"))
"""What may be given a source: the tenant, and the fields of a request's `data` that are one value."""
KINDS: Final = {TENANT: "text"} | {entry.name: entry.kind for entry in REQUEST_FIELDS}

MAX_SOURCES: Final = 8
"""Of one field: a client writes a thing in one place, or in few."""

LITELLM_OPENMETER: Final = "litellm_tokens"
LITELLM: Final = "litellm"
OTLP: Final = "otlp"
DOCUMENTS: Final = (LITELLM, OTLP)
"""Not types of CloudEvents: LiteLLM's logging payload, and a span of OpenTelemetry."""


@dataclass(frozen=True, slots=True)
class EventType:
    """`sources`: field → paths (`$...`) and constants."""

    type: str
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _built_in(type_: str, **sources: str | tuple[str, ...]) -> EventType:
    return EventType(type_, {name: (of,) if isinstance(of, str) else of for name, of in sources.items()})


BUILT_IN: Final = (
    _built_in(
        LITELLM_OPENMETER,
        tenant="$.subject",
        application="litellm",
        model="$.data.model",
        input_tokens="$.data.prompt_tokens",
        output_tokens="$.data.completion_tokens",
    ),
    _built_in(
        LITELLM,
        # What the proxy's own keys say. What a caller may write (`end_user`, `requester_metadata`) is not asked.
        tenant=(
            "$.metadata.user_api_key_team_id",
            "$.metadata.user_api_key_team_alias",
            "$.metadata.user_api_key_org_id",
            "$.metadata.user_api_key_org_alias",
        ),
        application=("$.metadata.user_api_key_alias", "litellm"),
        model=("$.model", "$.model_group"),
        provider="$.custom_llm_provider",
    ),
    _built_in(
        OTLP,
        tenant=('$.attributes["meterhouse.tenant"]', '$.resource["meterhouse.tenant"]'),
        application=(
            '$.attributes["meterhouse.application"]',
            '$.resource["meterhouse.application"]',
            '$.resource["service.name"]',
        ),
        environment=('$.resource["deployment.environment.name"]', '$.resource["deployment.environment"]'),
        region='$.resource["cloud.region"]',
        model=('$.attributes["gen_ai.response.model"]', '$.attributes["gen_ai.request.model"]'),
        provider=('$.attributes["gen_ai.provider.name"]', '$.attributes["gen_ai.system"]'),
        operation='$.attributes["gen_ai.operation.name"]',
    ),
)


def in_force(configured: Iterable[EventType]) -> dict[str, EventType]:
    """Event types by their name: the built-in ones, and the configured ones laid over them field by field."""
    types = {built_in.type: built_in for built_in in BUILT_IN}
    for each in configured:
        below = types.get(each.type)
        types[each.type] = EventType(each.type, {**(below.sources if below else {}), **each.sources})
    return types
