"""Days of FHIR: date, dateTime and instant as the first and last day that they may be.

Everything is told in days, as ordinals of the calendar (day 1 is the first of the year 1). A time
with a zone may be on another day in UTC; it counts as both days, so that a system that writes
zones differently for what happened at once cannot bring anything before the prediction.
"""

import calendar
import re
from dataclasses import dataclass
from datetime import date

from wardround_client.sources.fhir.faults import Fault
from wardround_client.sources.fhir.fields import Element, child, text
from wardround_shared.errors import UnreadableError

_DATE = r"(\d{4})(?:-(\d\d)(?:-(\d\d)"
_TIME = r"(?:T(\d\d):(\d\d)(?::\d\d(?:\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?"
_DATE_TIME = re.compile(rf"{_DATE}{_TIME})?)?", re.ASCII)
_MINUTES = 24 * 60


@dataclass(frozen=True, kw_only=True)
class Day:
    """The first and the last day that a date may be."""

    earliest: int
    latest: int


def day(element: Element, key: str) -> Day | None:
    """The date at `key`, or None where there is none.

    Raises:
        UnreadableError: it is no date.
    """
    written = text(element, key)
    if written is None:
        return None
    match = _DATE_TIME.fullmatch(written)
    try:
        return _day(*match.groups()) if match else _malformed()
    except ValueError:  # no such day in the calendar
        return _malformed()


def period(element: Element, key: str) -> Day | None:
    """From the first day of the Period at `key` to its last, or None without a start."""
    given = child(element, key)
    if given is None:
        return None
    start, end = day(given, "start"), day(given, "end")
    if start is None:
        return None
    return Day(earliest=start.earliest, latest=max(start.latest, end.latest if end else 0))


def _day(  # noqa: PLR0917 - the groups of the pattern
    year: str,
    month: str | None,
    number: str | None,
    hour: str | None,
    minute: str | None,
    zone: str | None,
) -> Day:
    if month is None:
        return Day(
            earliest=date(int(year), 1, 1).toordinal(), latest=date(int(year), 12, 31).toordinal()
        )
    if number is None:
        length = calendar.monthrange(int(year), int(month))[1]
        first = date(int(year), int(month), 1).toordinal()
        return Day(earliest=first, latest=first + length - 1)
    written = date(int(year), int(month), int(number)).toordinal()
    universal = written
    if hour is not None and minute is not None and zone not in {None, "Z"}:
        universal += (int(hour) * 60 + int(minute) - _offset(zone or "")) // _MINUTES
    return Day(earliest=min(written, universal), latest=max(written, universal))


def _offset(zone: str) -> int:
    """Minutes that local time is ahead of UTC."""
    minutes = int(zone[1:3]) * 60 + int(zone[4:6])
    return -minutes if zone[0] == "-" else minutes


def _malformed() -> Day:
    raise UnreadableError(Fault.MALFORMED)
