"""API keys as text: what is written is read, and what was mistyped is told apart without asking anybody."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterhouse.warehouse.key_text import ID_BYTES, SECRET_BYTES, KeyMistyped, KeyText, read, write

KEY = write(bytes(range(ID_BYTES)), bytes(range(SECRET_BYTES)))
keys = st.builds(
    write,
    st.binary(min_size=ID_BYTES, max_size=ID_BYTES),
    st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES),
)


def test_a_key_is_recognised_by_its_look() -> None:
    assert KEY == "mhk_000102030405_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf28VjO7"
    secret = KEY.split("_")[2][:43]
    assert read(KEY) == KeyText("000102030405", hashlib.sha256(secret.encode()).digest())


@given(keys)
def test_every_key_is_letters_and_digits_of_one_length_and_is_read(text: str) -> None:
    assert re.fullmatch(r"mhk_[0-9a-f]{12}_[0-9A-Za-z]{49}", text)
    assert read(text).id == text[4:16]


@given(keys, st.data())
def test_a_key_with_a_wrong_character_is_mistyped(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(4, len(text) - 1))
    wrong = data.draw(st.characters(codec="utf-8").filter(lambda each: each != text[place]))
    with pytest.raises(KeyMistyped, match="Copy it again"):
        read(text[:place] + wrong + text[place + 1 :])


@given(keys, st.integers(0, 64))
def test_a_key_that_is_cut_off_is_mistyped(text: str, length: int) -> None:
    with pytest.raises(KeyMistyped):
        read(text[:length])


def test_keys_of_different_secrets_have_different_texts() -> None:
    texts = {write(bytes(ID_BYTES), number.to_bytes(SECRET_BYTES)) for number in range(1_000)}
    assert len(texts) == 1_000
    assert len({read(text).secret_hash for text in texts}) == 1_000
