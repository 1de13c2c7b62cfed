"""Is a value what its attribute is for? A field for numbers is a place to write text in, too."""

import math
import re
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

_TEXT_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?")
_ZEROS_IN_FRONT = re.compile(r"^([+-]?)0+(?=\d)")
_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})")
_OLD_DATE = re.compile(r"(\d{4})\.(\d{2})\.(\d{2})")  # of ACR-NEMA, PS3.5 6.2
_GREATEST = 1e6
"""No measure reaches it; birth dates, telephone numbers and long record numbers do."""
_LEAST = 1e-12
_MOST_VALUES = 64
"""Of an attribute that may have any number of them."""


def listed(value: Any) -> tuple[Any, ...]:
    """The values of an element, also of one that has none."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        return () if value is None or value in {"", b""} else (value,)
    return tuple(value)


def are_measures(values: Sequence[Any], multiplicity: str) -> bool:
    """Whether values can be measures or counts, and are no more than the standard allows.

    Args:
        values: of one element, as pydicom gives them.
        multiplicity: of PS3.6, "3" or "1-n" say.
    """
    return 0 < len(values) <= _most(multiplicity) and all(map(_is_measure, values))


def plain(value: Any, representation: str) -> Any:
    """A measure as it is written: in text without zeros in front, which record numbers have.

    Args:
        value: that `are_measures`.
        representation: value representation of its attribute.
    """
    if representation == "IS":
        return int(value)
    text = str(getattr(value, "original_string", value)).strip(" \0")
    if representation == "DS":
        return _ZEROS_IN_FRONT.sub(r"\1", text)
    return value


def fits_words(value: bytes, multiplicity: str) -> bool:
    """Whether bytes are the 16-bit words of an attribute whose sign is not known yet."""
    return len(value) % 2 == 0 and 0 < len(value) // 2 <= min(3, _most(multiplicity))


def terms(values: Sequence[Any], allowed: frozenset[str]) -> list[str]:
    """The values, those that are not allowed left empty, and none of these at the end."""
    found = [text if (text := str(value).strip(" \0")) in allowed else "" for value in values]
    while found and not found[-1]:
        found.pop()
    return found if len(found) <= _MOST_VALUES else []


def shifted(value: Any, days: int) -> str:
    """A date (DA), or the date of a date time (DT), `days` earlier; "" for anything else.

    The time of a date time is left out: to the microsecond, it finds an image in the hospital's
    systems, whatever the date.
    """
    text = str(value).strip(" \0")
    found = _DATE.match(text) or _OLD_DATE.fullmatch(text)
    if found is None:
        return ""
    try:
        year, month, day = (int(part) for part in found.groups())
        moved = date(year, month, day) - timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return f"{moved.year:04}{moved.month:02}{moved.day:02}"


def _most(multiplicity: str) -> int:
    last = multiplicity.rpartition("-")[2]
    return int(last) if last.isdigit() else _MOST_VALUES


def _is_measure(value: Any) -> bool:
    # pydicom keeps the text of an IS or DS, which is what would be written.
    text = getattr(value, "original_string", None) or value
    if isinstance(text, str):
        if not _TEXT_NUMBER.fullmatch(text.strip(" \0")) or len(text) > 16:
            return False
    elif not isinstance(value, int | float):
        return False
    size = abs(float(value))
    return size == 0 or (math.isfinite(size) and _LEAST <= size < _GREATEST)
