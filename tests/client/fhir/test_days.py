"""Dates of FHIR as the days that they may be."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_client.sources.fhir.days import Day, day, period
from wardround_shared.errors import UnreadableError


def between(first, last):
    return Day(earliest=first.toordinal(), latest=last.toordinal())


@pytest.mark.parametrize(
    ("written", "first", "last"),
    [
        ("2014", date(2014, 1, 1), date(2014, 12, 31)),
        ("2016-02", date(2016, 2, 1), date(2016, 2, 29)),
        ("2014-02-17", date(2014, 2, 17), date(2014, 2, 17)),
        ("2014-02-17T21:25:11+00:00", date(2014, 2, 17), date(2014, 2, 17)),
        ("2014-02-17T21:25:11.753Z", date(2014, 2, 17), date(2014, 2, 17)),
        ("2014-02-17T23:59:60Z", date(2014, 2, 17), date(2014, 2, 17)),
        # The same instant as 2014-02-18T02:25Z, and as 2014-02-16T22:30Z.
        ("2014-02-17T21:25:11-05:00", date(2014, 2, 17), date(2014, 2, 18)),
        ("2014-02-17T00:30:00+02:00", date(2014, 2, 16), date(2014, 2, 17)),
    ],
)
def test_a_date_is_every_day_that_it_may_be(written, first, last):
    assert day({"on": written}, "on") == between(first, last)


@pytest.mark.parametrize(
    "written",
    ["", "yesterday", "2014-13", "2014-02-30", "0000", "14-02-17", "2014-02-17 21:25", "2014-02-",
     "\uff12\uff10\uff11\uff14", "2014\n", 2014, None, ["2014"], {}],
)  # fmt: skip
def test_what_is_no_date_is_refused(written):
    with pytest.raises(UnreadableError, match="R4"):
        day({"on": written}, "on")


def test_no_date_is_none():
    assert day({}, "on") is None
    assert period({}, "on") is None
    assert period({"on": {"end": "2014"}}, "on") is None


def test_a_period_goes_from_its_first_day_to_its_last():
    given_ = {"on": {"start": "2014-02-17", "end": "2014-03-01T10:00:00Z"}}
    assert period(given_, "on") == between(date(2014, 2, 17), date(2014, 3, 1))
    assert period({"on": {"start": "2014-02-17"}}, "on") == day({"on": "2014-02-17"}, "on")


@given(st.datetimes(), st.integers(-14 * 60, 14 * 60))
def test_the_day_as_written_and_the_day_in_utc_are_both_in_it(moment, ahead):
    zone = f"{'-' if ahead < 0 else '+'}{abs(ahead) // 60:02}:{abs(ahead) % 60:02}"
    found = day({"on": f"{moment:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + zone}, "on")
    written = moment.toordinal()
    universal = written + (moment.hour * 60 + moment.minute - ahead) // 1440
    assert (found.earliest, found.latest) == (min(written, universal), max(written, universal))
