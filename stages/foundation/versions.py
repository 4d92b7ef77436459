"""Versions of programs and of CUDA compute capabilities, compared number by number."""

import re


def is_version(text: str) -> bool:
    """Return whether `numbers` can read a text: it begins with a number, and after that ends or has a dot."""
    return re.match(r"[0-9]+(\.|$)", text) is not None


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "10.13.2.6" -> (10, 13, 2, 6), "12.4.rc1" -> (12, 4).

    Raises ValueError where it begins with none.
    """
    if not is_version(version):
        raise ValueError(f"a version must be numbers separated by dots, found {version!r}")
    found = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        found.append(int(part))
    return tuple(found)


def fits(version: str, wanted: str) -> bool:
    """Return whether a whole version, such as 10.13.2.6, is the wanted one, which may be only its beginning: 10.13."""
    return f"{version}.".startswith(f"{wanted}.")
