"""Checks by Great Expectations. The one module that knows it: importing it takes seconds and a quarter of a gigabyte,
so only the quality command's own process does.

Measured traps of 1.24: results do not come in the order of expectations (each carries its check's id); a pair compared
by size fails on nulls (so that is not used); a context with its defaults makes a folder for Data Docs that stays.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any, Final

import great_expectations as gx
import pyarrow as pa
from great_expectations.core.expectation_validation_result import ExpectationValidationResult
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.expectations.core.expect_column_pair_values_to_be_equal import ExpectColumnPairValuesToBeEqual
from great_expectations.expectations.core.expect_column_pair_values_to_be_in_set import ExpectColumnPairValuesToBeInSet
from great_expectations.expectations.core.expect_column_values_to_be_between import ExpectColumnValuesToBeBetween
from great_expectations.expectations.core.expect_column_values_to_be_in_set import ExpectColumnValuesToBeInSet
from great_expectations.expectations.expectation import Expectation as GxExpectation

from meterhouse.warehouse.quality.checks import (
    MAX_NAMED,
    Between,
    Check,
    Expectation,
    Extract,
    Finding,
    OneOf,
    PairOneOf,
    Same,
    Suite,
    row_text,
)

_SITE: Final = "meterhouse"


class Expectations:
    """A context in memory that says nothing to anybody. Good for one run: it keeps what it validated for Data Docs."""

    def __init__(self) -> None:
        logging.getLogger("great_expectations").setLevel(logging.ERROR)
        self._context = gx.get_context(
            mode="ephemeral",
            project_config=DataContextConfig(
                store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
                analytics_enabled=False,
                progress_bars=ProgressBarsConfig(globally=False),
            ),
        )
        self._frames = self._context.data_sources.add_pandas("meterhouse")

    def validate(self, suite: Suite, work: Sequence[tuple[Extract, Sequence[Check]]]) -> Mapping[str, Finding]:
        """A finding of each check, by its id."""
        found: dict[str, Finding] = {}
        for extract, checks in work:
            found |= self._validate(f"{suite}.{extract.name}", extract, checks)
        return found

    def _validate(self, name: str, extract: Extract, checks: Sequence[Check]) -> dict[str, Finding]:
        suite = self._context.suites.add(gx.ExpectationSuite(name=name))
        for check in checks:
            suite.add_expectation(_expectation(check))
        batch = self._frames.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        definition = self._context.validation_definitions.add(
            gx.ValidationDefinition(name=name, data=batch, suite=suite)
        )
        result = definition.run(
            # Nullable integers as Python's own: pandas would make floats of them, and a count of 2^53 another one.
            batch_parameters={"dataframe": _escaped(extract.table).to_pandas(integer_object_nulls=True)},
            result_format={
                "result_format": "COMPLETE",  # only so do its pages name rows
                "unexpected_index_column_names": list(extract.keys),
                "partial_unexpected_count": MAX_NAMED,
                "return_unexpected_index_query": False,
            },
        )
        expected = {check.id: check for check in checks}
        by_id = {each.expectation_config.meta["check"]: each for each in result.results if each.expectation_config}
        return {id_: _finding(extract, check.expects, by_id[id_]) for id_, check in expected.items()}

    def write_docs(self, folder: Path) -> Path:
        """Data Docs of what was validated, as pages below `folder`; returns the first page."""
        self._context.add_data_docs_site(
            _SITE,
            {
                "class_name": "SiteBuilder",
                "store_backend": {
                    "class_name": "TupleFilesystemStoreBackend",
                    "base_directory": str(folder.resolve()),
                },
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            },
        )
        self._context.build_data_docs(site_names=[_SITE])
        return folder / "index.html"


def _expectation(check: Check) -> GxExpectation:
    said: dict[str, Any] = {"meta": {"check": check.id}, "description": check.says, "notes": check.do}
    match check.expects:
        case Between(column, low, high):
            return ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, **said)
        case OneOf(column, values):
            return ExpectColumnValuesToBeInSet(column=column, value_set=list(values), **said)
        case PairOneOf(column, other, pairs):
            return ExpectColumnPairValuesToBeInSet(column_A=column, column_B=other, value_pairs_set=list(pairs), **said)
        case Same(column, other):
            return ExpectColumnPairValuesToBeEqual(column_A=column, column_B=other, **said)


def _finding(extract: Extract, expects: Expectation, result: ExpectationValidationResult) -> Finding:
    details = result.result
    if "unexpected_count" not in details:
        return Finding(len(extract.table), 0, (), _trouble(result.exception_info or {}))
    rows = [
        {name: unescape(value) if isinstance(value, str) else value for name, value in row.items()}
        for row in details.get("partial_unexpected_index_list") or ()
    ]
    texts = tuple(row_text(extract, expects, row) for row in rows)
    return Finding(len(extract.table), int(details["unexpected_count"]), texts)


def _escaped(table: pa.Table) -> pa.Table:
    """Texts as HTML shows them: Data Docs write values as they are, and names of models are what senders wrote."""
    for number, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            texts = [None if text is None else escape(text) for text in table[number].to_pylist()]
            table = table.set_column(number, field, pa.array(texts, field.type))
    return table


def _trouble(raised: Mapping[str, Any]) -> str:
    """What kept a check from being made, in a line: it stands in a dict, or in dicts by metric."""
    infos = [raised, *(each for each in raised.values() if isinstance(each, Mapping))]
    told = [str(each["exception_message"]) for each in infos if each.get("exception_message")]
    return " ".join((told or ["it says nothing"])[0].split())[:500]
