"""Names that people write in two files and that must be the same in both: a near miss is found and pointed out.

Names are compared as they are, character by character. Two are similar where they differ only by letter case, blanks,
hyphens, underscores, characters that are not shown, or the Unicode form of the same letters.
"""

import re
import unicodedata
from collections.abc import Iterable


def similar(name: str, others: Iterable[str]) -> list[str]:
    """Those of `others` that are similar to a name but not the same, in their order."""
    key = _key(name)
    return [other for other in others if other != name and _key(other) == key]


def similar_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of different names that are similar: each later one with the first of its kind."""
    first: dict[str, str] = {}
    found = [(first.setdefault(_key(name), name), name) for name in dict.fromkeys(names)]
    return [(one, other) for one, other in found if one != other]


def hint(name: str, others: Iterable[str]) -> str:
    """What a message about an unknown name says more: the name that may be meant, or nothing where none is similar."""
    found = similar(name, others)
    # Letters beyond ASCII are escaped, as two forms of the same letter look alike.
    return f" ({found[0]!a} is there, and names are compared as they are: {name!a} is another)" if found else ""


def is_plain(name: str) -> bool:
    """Whether a name has no line end, other control character or half of a surrogate pair, which no file holds."""
    return all(unicodedata.category(letter) not in ("Cc", "Cs") for letter in name)


def _key(name: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    shown = (letter for letter in text if unicodedata.category(letter) != "Cf")
    return re.sub(r"[\s_-]+", "", "".join(shown))
