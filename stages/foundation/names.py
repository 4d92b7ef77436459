"""Finds the name that was probably meant where a name in one file does not occur in another.

Names are equal if all their characters are. Names are similar if they differ only by letter case, blanks, hyphens,
underscores, invisible characters, or the Unicode form of the same letters.
"""

import re
import unicodedata
from collections.abc import Iterable


def similar(name: str, others: Iterable[str]) -> list[str]:
    """Return the names among `others` that are similar to `name` but not equal, in their order."""
    key = _key(name)
    return [other for other in others if other != name and _key(other) == key]


def similar_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of similar but different names: each name with the first one that it is similar to."""
    first: dict[str, str] = {}
    found = [(first.setdefault(_key(name), name), name) for name in dict.fromkeys(names)]
    return [(one, other) for one, other in found if one != other]


def hint(name: str, others: Iterable[str]) -> str:
    """Return what to append to a message about an unknown name: the similar name, or nothing if there is none."""
    found = similar(name, others)
    # Escaped beyond ASCII, since two Unicode forms of the same letter look alike.
    return f" (did you mean {found[0]!a}? it differs from {name!a})" if found else ""


def is_plain(name: str) -> bool:
    """Return whether a name has no control character, such as a line end, and no lone surrogate."""
    return all(unicodedata.category(letter) not in ("Cc", "Cs") for letter in name)


def is_visible(name: str) -> bool:
    """Return whether a name has a character that is neither blank nor invisible, such as a zero-width space."""
    return any(not letter.isspace() and unicodedata.category(letter) != "Cf" for letter in name)


def _key(name: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    shown = (letter for letter in text if unicodedata.category(letter) != "Cf")
    return re.sub(r"[\s_-]+", "", "".join(shown))
