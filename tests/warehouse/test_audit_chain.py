"""The chain of the audit log: what may be an entry, and that no edit of a log goes unseen."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from meterhouse.warehouse.audit_chain import (
    MAX_DETAIL_BYTES,
    MAX_DETAIL_DEPTH,
    MAX_TEXT,
    MAX_WHOLE,
    START,
    BadDeed,
    Deed,
    Entry,
    Fault,
    Head,
    Verification,
    entry_of,
    verified,
)

EDITS = 10_000
LENGTH = 24
"""Entries of the log that is edited."""
KEPT = (5, 12, 18, LENGTH)
"""Of these entries the lake knows."""


def head_of(entry: Entry) -> Head:
    return Head(entry.seq, entry.hash)


def log_of(count: int) -> list[Entry]:
    entries: list[Entry] = []
    for number in range(1, count + 1):
        deed = Deed(f"key:{number % 3}", "silence.made", f"s{number}", {"reason": f"because of {number}"})
        entries.append(entry_of(head_of(entries[-1]) if entries else START, deed, 1_000 + number))
    return entries


LOG = log_of(LENGTH)
HEADS = [head_of(LOG[seq - 1]) for seq in KEPT]
Edited = tuple[list[Entry], Head, int]
"""A log after an edit, its head, and the entry that a check must name."""


def change(draw: random.Random) -> Edited:
    place = draw.randrange(LENGTH)
    entry, name = LOG[place], draw.choice(["at_us", "actor", "action", "subject", "detail", "hash"])
    other: dict[str, Any] = {
        "at_us": entry.at_us + draw.randint(1, 10**9),
        "hash": draw.randbytes(32),
        "detail": draw.choice([entry.detail + " ", "{}", entry.detail.replace("because", "Because")]),
    }
    text = getattr(entry, name)
    value = other.get(name, f"{text}{chr(draw.randint(33, 126))}" if isinstance(text, str) else None)
    return [*LOG[:place], replace(entry, **{name: value}), *LOG[place + 1 :]], head_of(LOG[-1]), place + 1


def delete(draw: random.Random) -> Edited:
    place = draw.randrange(LENGTH)
    return [*LOG[:place], *LOG[place + 1 :]], head_of(LOG[-1]), place + 1


def delete_and_number_anew(draw: random.Random) -> Edited:
    place = draw.randrange(LENGTH - 1)
    return [*LOG[:place], *(replace(e, seq=e.seq - 1) for e in LOG[place + 1 :])], head_of(LOG[-1]), place + 1


def swap(draw: random.Random) -> Edited:
    first, second = sorted(draw.sample(range(LENGTH), 2))
    entries = list(LOG)
    entries[first], entries[second] = (
        replace(LOG[second], seq=LOG[first].seq),
        replace(LOG[first], seq=LOG[second].seq),
    )
    return entries, head_of(LOG[-1]), first + 1


def insert(draw: random.Random) -> Edited:
    place = draw.randrange(LENGTH + 1)
    made = entry_of(
        head_of(LOG[place - 1]) if place else START, Deed("key:9", "export.made", "a"), draw.randrange(10**9)
    )
    moved = [replace(entry, seq=entry.seq + 1) for entry in LOG[place:]]
    named = place + 1 if place == LENGTH or place + 1 in KEPT else place + 2
    return [*LOG[:place], made, *moved], head_of(LOG[-1]), named


def truncate(draw: random.Random) -> Edited:
    keep = draw.randrange(LENGTH)
    return LOG[:keep], head_of(LOG[-1]), keep + 1


def truncate_and_set_the_head(draw: random.Random) -> Edited:
    keep = draw.randrange(LENGTH)
    return LOG[:keep], head_of(LOG[keep - 1]) if keep else START, keep + 1


def rewrite_the_tail(draw: random.Random) -> Edited:
    """All hashes are right, and so is the head: only the lake knows better."""
    place, entries = draw.randrange(LENGTH), list(LOG)
    for at in range(place, LENGTH):
        deed = Deed("key:1" if at > place else "nobody", LOG[at].action, LOG[at].subject)
        entries[at] = entry_of(head_of(entries[at - 1]) if at else START, deed, LOG[at].at_us)
    return entries, head_of(entries[-1]), min(seq for seq in KEPT if seq > place)


def edit_the_head(draw: random.Random) -> Edited:
    seq = draw.randrange(2 * LENGTH)
    digest = LOG[-1].hash if seq != LENGTH else draw.randbytes(32)
    return LOG, Head(seq, digest), LENGTH + 1 if seq > LENGTH else LENGTH


KINDS: list[Callable[[random.Random], Edited]] = [
    change, delete, delete_and_number_anew, swap, insert, truncate, truncate_and_set_the_head, rewrite_the_tail,
    edit_the_head,
]  # fmt: skip


def test_ten_thousand_edits_are_found_each_at_its_entry() -> None:
    draw = random.Random(6)
    done: Counter[str] = Counter()
    for number in range(EDITS):
        kind = KINDS[number % len(KINDS)]
        entries, head, named = kind(draw)
        fault = verified(entries, head, HEADS).fault
        assert fault is not None, f"{kind.__name__} went unseen: {entries}"
        assert fault.seq == named, f"{kind.__name__} of {named} is said to be of {fault.seq}: {fault.told}"
        done[kind.__name__] += 1
    assert (sum(done.values()), len(done)) == (EDITS, len(KINDS))


def test_a_fault_says_what_was_done() -> None:
    end = head_of(LOG[-1])
    said = {
        "edited, or moved": [replace(LOG[0], actor="x"), *LOG[1:]],
        "entry 1 is missing: 2 follows 0": LOG[1:],
        "never written stands before 1, as 0": [replace(LOG[0], seq=0), *LOG],
        "entry 24 is missing: the lake knows of 24": LOG[:-1],
    }
    for told, entries in said.items():
        fault = verified(entries, end, HEADS).fault
        assert fault is not None
        assert told in fault.told
    assert verified(LOG[:-1], end, HEADS[:-1]).fault == Fault(24, "entry 24 is missing: the head is at 24")


def test_a_log_as_it_was_written_is_whole_at_every_length() -> None:
    for count in range(LENGTH + 1):
        entries, seen = log_of(count), list[int]()
        heads = [head for head in HEADS if head.seq <= count]
        end = head_of(entries[-1]) if entries else START
        found = verified(iter(entries), end, iter(heads), seen.append)
        assert found == Verification(count, len(heads), heads[-1].seq if heads else 0, None)
        assert seen == list(range(1, count + 1))


def test_what_follows_the_lakes_newest_head_can_be_written_anew_unseen() -> None:
    entries = list(LOG[:-1])
    entries.append(entry_of(head_of(entries[-1]), Deed("nobody", "export.made", "a"), 1))
    found = verified(entries, head_of(entries[-1]), HEADS[:-1])
    assert found == Verification(LENGTH, len(KEPT) - 1, KEPT[-2], None)
    assert verified(entries, head_of(entries[-1]), HEADS).fault == Fault(
        LENGTH, f"entry {LENGTH}, or one before it, was rewritten: the lake knows of another {LENGTH}"
    )


def test_two_heads_of_one_entry_must_both_be_right() -> None:
    assert verified(LOG, head_of(LOG[-1]), [HEADS[0], *HEADS]).fault is None
    forked = [*HEADS[:1], Head(KEPT[0], bytes(32)), *HEADS[1:]]
    assert verified(LOG, head_of(LOG[-1]), forked).fault is not None


@pytest.mark.parametrize("value", [None, 1.0, "1", b"1", True])
@pytest.mark.parametrize("name", ["seq", "at_us", "actor", "detail", "hash"])
def test_a_column_of_another_type_is_an_edit(name: str, value: Any) -> None:
    assert verified([replace(LOG[0], **{name: value}), *LOG[1:]], head_of(LOG[-1]), HEADS).fault is not None


def test_the_hash_is_of_the_hash_before_and_the_entry_as_json() -> None:
    # So that anyone can compute it from what the API lists.
    first = entry_of(START, Deed("ann", "control.applied", "control/1", {"b": 1, "a": "ü"}), 5)
    assert first.detail == '{"a":"ü","b":1}'
    form = json.dumps([1, 5, "ann", "control.applied", "control/1", first.detail], ensure_ascii=False).encode()
    assert first.hash == hashlib.sha256(bytes(32) + form).digest()


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
DETAIL = st.dictionaries(
    TEXT,
    st.recursive(
        st.none() | st.booleans() | st.integers(-MAX_WHOLE, MAX_WHOLE) | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=8,
    ).filter(lambda value: len(json.dumps(value)) < 500),
    max_size=4,
)


@given(TEXT.filter(bool), TEXT.filter(bool), DETAIL)
def test_a_detail_comes_back_as_it_was_given(actor: str, subject: str, detail: dict[str, Any]) -> None:
    assume(json.dumps(detail).count("[") + json.dumps(detail).count("{") <= MAX_DETAIL_DEPTH)
    entry = entry_of(START, Deed(actor, "export.made", subject, detail), 1)
    assert json.loads(entry.detail) == detail
    assert astuple(entry)[:5] == (1, 1, actor, "export.made", subject)


@given(TEXT.filter(bool), TEXT.filter(bool))
def test_no_two_deeds_have_one_hash(actor: str, subject: str) -> None:
    def digest(*deed: str) -> bytes:
        return entry_of(START, Deed(deed[0], "export.made", deed[1]), 1).hash

    assert digest(actor + subject[:1], subject[1:] or "x") != digest(actor, subject)
    assert (digest(actor, subject) == digest(subject, actor)) == (actor == subject)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"actor": ""}, "1 to 1,000 characters"),
        ({"actor": "x" * (MAX_TEXT + 1)}, "1 to 1,000 characters"),
        ({"subject": "a\x00b"}, "NUL"),
        ({"subject": "\ud800"}, "half a character"),
        ({"action": "Applied"}, "noun.verb"),
        ({"action": "control.applied\n"}, "noun.verb"),
        ({"detail": {"cost": 0.1}}, "`detail.cost` is a float"),
        ({"detail": {"cost": float("nan")}}, "is a float"),
        ({"detail": {"limit": MAX_WHOLE + 1}}, "give it as a text"),
        ({"detail": {"a": ["\udfff"]}}, "half a character"),
        ({"detail": {"a\x00": 1}}, "NUL"),
        ({"detail": {1: 2}}, "a key that is no text"),
        ({"detail": {"key": b"secret"}}, "is a bytes"),
        ({"detail": {"a": [[[[[[[[[1]]]]]]]]]}}, "8 deep"),
        ({"detail": {"a": "ü" * MAX_DETAIL_BYTES}}, "16,384 bytes"),
    ],
)
def test_what_cannot_be_an_entry_is_refused_before_it_is_done(changes: dict[str, Any], said: str) -> None:
    fields: dict[str, Any] = {"actor": "ann", "action": "export.made", "subject": "a", "detail": {}}
    with pytest.raises(BadDeed, match=said):
        Deed(**fields | changes)
