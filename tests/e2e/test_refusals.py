"""An edit of the control file that cannot stand is refused: the message says what to do, and nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.house import CONTROL, House

LARGE = 'per_million: {input: "2.50"'
LARGE_FROM = "model: atlas-large\n    valid_from: 2026-01-01T00:00:00Z\n"


@dataclass(frozen=True)
class Refused:
    """An edit, and words that the refusal must say: what is wrong, and what to do instead."""

    edit: Callable[[str], str]
    says: tuple[str, ...]


def swap(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return edit


EDITS = {
    "a price in force changed": Refused(
        swap(LARGE, 'per_million: {input: "2.60"'), ("in force", "add a new", "later", "valid_from")
    ),
    "a negotiated price in force changed": Refused(
        swap('input: "2.125"', 'input: "2.124"'), ("line 32", "in force", "add a new", "valid_from")
    ),
    "a price with more than six decimals": Refused(
        swap('input: "0.15"', 'input: "0.1500001"'), ("0.1500001", "six decimals")
    ),
    "a validity that overlaps the next one": Refused(
        swap(LARGE_FROM, LARGE_FROM + "    valid_to: 2190-01-01T00:00:00Z\n"),
        ("valid_to", "2026-03-28T23:03:07.250001Z"),
    ),
    "a budget of a tenant that nobody knows": Refused(
        swap("scope: {tenant: acme-retail}", "scope: {tenant: acme-retial}"),
        ("acme-retial", "acme-retail", "line 50"),
    ),
    "a limit in two currencies of thought": Refused(
        swap('limit: "5.00"', 'limit: "5.00"\n    limit_tokens: 7'), ("limit", "limit_tokens", "line 50")
    ),
    "a time zone that does not exist": Refused(
        swap("Europe/Berlin", "Europe/Bärlin"), ("Bärlin", "time_zone")
    ),
    "a float for a price that a float cannot hold": Refused(
        swap('input: "0.15"', "input: 1e-3"), ("1e-3", "per_million")
    ),
    "another currency": Refused(swap("currency: USD", "currency: EUR"), ("EUR", "USD")),
    "a file that is not YAML": Refused(lambda text: text + "\n  : [", ("YAML",)),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_a_refused_edit_teaches_and_changes_nothing(applied: House, tmp_path: Path, name: str) -> None:
    refused, before = EDITS[name], applied.control_rows()
    file = tmp_path / "edited.yaml"
    file.write_text(refused.edit(CONTROL.read_text(encoding="utf-8")), encoding="utf-8")
    done = applied.run("apply", str(file), code=2)
    said = " ".join(done.stderr.split())
    assert [word for word in refused.says if word not in said] == [], said
    assert "Traceback" not in said
    assert applied.control_rows() == before


def test_a_sound_change_beside_a_refused_one_is_not_applied(applied: House, tmp_path: Path) -> None:
    before = applied.control_rows()
    text = CONTROL.read_text(encoding="utf-8").replace('limit: "5.00"', 'limit: "6.00"')
    file = tmp_path / "edited.yaml"
    file.write_text(EDITS["a price in force changed"].edit(text), encoding="utf-8")
    applied.run("apply", str(file), code=2)
    assert applied.control_rows() == before


def test_the_same_file_again_changes_nothing(applied: House) -> None:
    before = applied.control_rows()
    applied.run("apply", str(CONTROL))
    assert applied.control_rows() == before


def test_a_new_price_from_a_later_day_is_accepted(applied: House, tmp_path: Path) -> None:
    house = applied.copy(tmp_path / "home")
    addition = """
  - provider: atlas
    model: atlas-small
    valid_from: 2190-01-01T00:00:00Z
    per_million: {input: "0.14", cache_read: "0.014", cache_write: "0.1875", output: "0.60", reasoning: "0.60"}
    approved_by: finance@example.com
"""
    file = tmp_path / "edited.yaml"
    text = CONTROL.read_text(encoding="utf-8").replace("\nbudgets:", addition + "budgets:")
    file.write_text(text, encoding="utf-8")
    done = house.run("apply", str(file))
    assert "atlas-small" in done.stdout + done.stderr
    assert house.control_rows() != applied.control_rows()


def test_a_file_that_is_not_there_is_wrong_use(applied: House, tmp_path: Path) -> None:
    done = applied.run("apply", str(tmp_path / "absent.yaml"), code=2)
    assert "absent.yaml" in "".join(done.stderr.split())
