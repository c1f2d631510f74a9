"""Text from elsewhere, made fit for a terminal."""

from __future__ import annotations

import unicodedata

# Control characters, and format characters that can reorder what is shown.
_NOT_SHOWN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def shown(text: str) -> str:
    """The text with what could steer a terminal written out, as `\\x1b`; line feeds stay."""
    return "".join(
        character
        if character == "\n" or unicodedata.category(character) not in _NOT_SHOWN
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def one_line(text: str) -> str:
    """The text on one line, fit for a terminal."""
    return shown(" ".join(text.split()))
