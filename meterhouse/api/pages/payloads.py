"""Bytes that somebody sent, for people to look at: as text, or byte by byte. Nothing in them acts on the page."""

from __future__ import annotations

from typing import Final

MAX_TEXT: Final = 32 * 2**10
"""Bytes that are shown as text: more than an event of sense has. A reader finds what is wrong in the first of them."""
MAX_HEX: Final = 4 * 2**10
"""Bytes that are shown one by one: 256 lines."""
_PER_LINE: Final = 16


def as_text(payload: bytes) -> str:
    """The first MAX_TEXT bytes. What is no text, and characters that have no shape or would turn their line around,
    stand as escapes."""
    text = payload[:MAX_TEXT].decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() or each in "\n\t" else _escape(each) for each in text)


def as_hex(payload: bytes) -> str:
    """The first MAX_HEX bytes: offset, hexadecimal, ASCII."""
    lines = []
    for start in range(0, min(len(payload), MAX_HEX), _PER_LINE):
        part = payload[start : min(start + _PER_LINE, MAX_HEX)]
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)
        lines.append(f"{start:06x}  {part.hex(' '):<{3 * _PER_LINE - 1}}  {shown}")
    return "\n".join(lines)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
