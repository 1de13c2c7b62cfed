"""docs/audit-log.md has every event and field, and the example there is a real line."""

import re
from pathlib import Path

from wardround_shared.audit_log import EVENTS, FIELDS

PAGE = (Path(__file__).parents[3] / "docs" / "audit-log.md").read_text(encoding="utf-8")


def words(rows):
    """What stands in back quotes in the second column of these rows."""
    return re.findall(r"`([a-z-]+)`", " ".join(row.split("|")[2] for row in rows))


def table(heading):
    lines = PAGE[PAGE.index(heading) :].splitlines()[2:]
    return lines[: lines.index("")]


def test_every_event_is_in_the_table_once():
    assert sorted(words(table("| events |"))) == sorted(EVENTS)


def test_every_field_is_in_the_table_once():
    assert sorted(words(table("| fields |"))) == sorted(FIELDS)
