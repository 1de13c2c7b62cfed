"""The clock on the wall; what must not read it takes the time as an argument."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)
