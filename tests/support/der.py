"""Just enough DER (X.690) to make certificates and requests that no library would: values are TLVs as bytes."""

from __future__ import annotations

SEQUENCE, SET, INTEGER, BIT_STRING, NULL = 0x30, 0x31, 0x02, 0x03, b"\x05\x00"


def tlv(tag: int, content: bytes) -> bytes:
    """One value: tag, length, content."""
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def sequence(*parts: bytes) -> bytes:
    """A SEQUENCE of values."""
    return tlv(SEQUENCE, b"".join(parts))


def integer(number: int) -> bytes:
    """A non-negative INTEGER."""
    return tlv(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def bit_string(content: bytes) -> bytes:
    """A BIT STRING of whole bytes."""
    return tlv(BIT_STRING, b"\x00" + content)


def children(value: bytes) -> list[bytes]:
    """The values inside a constructed one."""
    content, found = _split(value)[1], []
    while content:
        size = _split(content)[2]
        found.append(content[:size])
        content = content[size:]
    return found


def _split(data: bytes) -> tuple[int, bytes, int]:
    tag, first = data[0], data[1]
    if first < 0x80:
        start, length = 2, first
    else:
        start = 2 + (first & 0x7F)
        length = int.from_bytes(data[2:start], "big")
    return tag, data[start : start + length], start + length
