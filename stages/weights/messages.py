"""Parts of error messages about weights."""

from collections.abc import Iterable


def first_five(names: Iterable[object]) -> str:
    """Return the first five names in sorted order as a list, and the number of the others."""
    found = sorted(map(str, names))
    return f"{found[:5]}{f' and {len(found) - 5} more' if len(found) > 5 else ''}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its type if it has no text."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def problems(found: list[str]) -> str:
    """Join the first five problems, and the number of the others."""
    return "; ".join(found[:5]) + (f", and {len(found) - 5} more" if len(found) > 5 else "")
