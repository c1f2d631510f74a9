"""Text from elsewhere, made fit for a terminal."""

from __future__ import annotations

import re
import unicodedata

# Control characters, C1 and DEL among them, and format characters that can reorder what is shown.
_NOT_SHOWN = ("Cc", "Cf", "Cs", "Zl", "Zp")


# All that is looked at closer: nearly all text has none of it.
_NOT_PLAIN = re.compile(r"[^ -~\n]")


def shown(text: str) -> str:
    """The text with what could steer a terminal written out, as `\\x1b`; line feeds stay."""
    return _NOT_PLAIN.sub(_written_out, text)


def shown_json(text: str) -> str:
    """JSON with the same written out, as `\\u001b`: still JSON, and of the same value.

    Outside of strings all JSON is plain, so whatever is found stands in one.
    """
    return _NOT_PLAIN.sub(_escaped, text)


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode() if _steers(found[0]) else found[0]


def _escaped(found: re.Match[str]) -> str:
    # White space between values is not in a string: only what no JSON has there is replaced.
    if found[0] in "\t\r" or not _steers(found[0]):
        return found[0]
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _steers(character: str) -> bool:
    return unicodedata.category(character) in _NOT_SHOWN


def one_line(text: str) -> str:
    """The text on one line, fit for a terminal."""
    return shown(" ".join(text.split()))
