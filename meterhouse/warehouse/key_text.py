"""API keys as text: `mhk_<id>_<secret><check>`, letters and digits only, so that a double click takes the whole.

The id is public. The secret is 32 random bytes. The check is a CRC of all before it: a key that was mistyped or cut off
is told from one that is not known without asking anybody, and a scanner for leaked secrets takes nothing else for one.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "mhk_"
ID_BYTES: Final = 6
SECRET_BYTES: Final = 32

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_DIGITS: Final = 43  # 62^43 > 2^256
_CHECK_DIGITS: Final = 6  # 62^6 > 2^32
_KEY: Final = re.compile(rf"{PREFIX}([0-9a-f]{{{2 * ID_BYTES}}})_([0-9A-Za-z]{{{_SECRET_DIGITS}}})([0-9A-Za-z]{{6}})")


class KeyMistyped(ValueError):
    """The text begins like a key and is none; the message says what to do."""


@dataclass(frozen=True, slots=True)
class KeyText:
    """A key that someone shows: which, and the hash of its secret."""

    id: str
    secret_hash: bytes


def write(key_id: bytes, secret: bytes) -> str:
    """The key's text, of ID_BYTES and SECRET_BYTES random bytes."""
    body = f"{PREFIX}{key_id.hex()}_{_in_digits(int.from_bytes(secret), _SECRET_DIGITS)}"
    return body + _check(body)


def read(text: str) -> KeyText:
    """What a key's text says. Raises KeyMistyped."""
    found = _KEY.fullmatch(text)
    if found is None or _check(text[:-_CHECK_DIGITS]) != found[3]:
        raise KeyMistyped("The API key is mistyped or cut off: its check digits do not fit. Copy it again, whole.")
    return KeyText(found[1], hash_of(found[2]))


def hash_of(secret: str) -> bytes:
    """A plain hash is enough: it stands for 256 random bits, of which nobody tries any share."""
    return hashlib.sha256(secret.encode("ascii")).digest()


def _check(body: str) -> str:
    return _in_digits(zlib.crc32(body.encode("ascii")), _CHECK_DIGITS)


def _in_digits(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
