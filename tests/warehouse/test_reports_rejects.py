"""The list of rejects: newest first, page by page, with their bytes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meterhouse.ingest.batch import Reason
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.rejects import Place, RejectFilter, rejects
from meterhouse.warehouse.reports.to_json import to_json
from tests.builders import SECOND_US, T0_US
from tests.warehouse.filled import fill, reject

REJECTS = [
    reject(0, b'{"a": 1}'),
    reject(1, b"\xff\xfe", reason=Reason.NOT_JSON, index=-1, tenant=None),
    *(
        reject(10 + i // 3, index=i % 3, partition=i % 2, arrived_us=T0_US + i // 4 * SECOND_US, tenant="bolt")
        for i in range(20)
    ),
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    folder = tmp_path_factory.mktemp("lake")
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data", threads=1)) as lake:
        fill(lake, rejects=REJECTS)
        yield lake


@pytest.mark.parametrize("limit", [1, 4, 7, 100])
def test_pages_together_hold_every_reject_once_newest_first(lake: Lake, limit: int) -> None:
    places, after = [], None
    for _ in range(len(REJECTS) + 1):
        page = rejects(lake, RejectFilter(), after, limit)
        places += [line.place for line in page.lines]
        if page.next is None:
            break
        after = Place.from_token(page.next.to_token())
    assert places == sorted((Place(r.arrived_us, r.partition, r.offset, r.index) for r in REJECTS), reverse=True)


def test_a_payload_is_text_when_it_is_utf8_and_base64_when_not(lake: Lake) -> None:
    listed = to_json(rejects(lake, RejectFilter(to_us=T0_US + 1), limit=1000))["rejects"]
    by_offset = {item["offset"]: item for item in listed if item["offset"] < 10}
    assert by_offset[0] == {
        "arrived": "2026-11-01T00:00:00Z",
        "topic": "usage.events",
        "partition": 0,
        "offset": 0,
        "index": 0,
        "reason": "missing_field",
        "detail": "data.model is missing: name the model",
        "tenant": "acme",
        "payload": '{"a": 1}',
        "payload_encoding": "utf-8",
    }
    assert (by_offset[1]["payload"], by_offset[1]["payload_encoding"]) == ("//4=", "base64")
    assert (by_offset[1]["index"], by_offset[1]["tenant"]) == (-1, None)


@pytest.mark.parametrize(
    ("matching", "count"),
    [
        (RejectFilter(reasons=["not_json"]), 1),
        (RejectFilter(tenant="bolt"), 20),
        (RejectFilter(tenant="bolt", from_us=T0_US + SECOND_US, to_us=T0_US + 2 * SECOND_US), 4),
        (RejectFilter(reasons=["too_late"]), 0),
    ],
)
def test_a_filter_keeps_what_matches(lake: Lake, matching: RejectFilter, count: int) -> None:
    assert len(rejects(lake, matching).lines) == count


def test_a_page_of_no_size_and_a_foreign_token_are_refused(lake: Lake) -> None:
    with pytest.raises(ReportError, match="1 to 1000 rejects, not 0"):
        rejects(lake, RejectFilter(), limit=0)
    with pytest.raises(ReportError, match="send back `next`"):
        Place.from_token("yesterday")
