"""Lines that repeat themselves."""

from scripted_clock import ScriptedClock

from wardround_shared.audit_log import Sparing


def worth(sparing, clock, *, times, every, matter="this"):
    found = 0
    for _ in range(times):
        found += sparing.worth(matter)
        clock.now += every
    return found


def test_one_matter_has_so_many_lines_an_hour():
    clock = ScriptedClock()
    assert worth(Sparing(clock=clock), clock, times=60, every=60) == 1
    assert worth(Sparing(often=3, clock=clock), clock, times=240, every=60) == 12


def test_another_matter_is_another_line():
    sparing = Sparing()
    assert [sparing.worth(one) for one in ("this", "that", "this")] == [True, True, False]


def test_there_are_so_many_matters_an_hour():
    clock = ScriptedClock()
    sparing = Sparing(most=5, often=2, clock=clock)
    assert sum(sparing.worth(number) for number in range(100)) == 5
    assert sparing.worth(0), "of what is known there may be more"
    assert not sparing.worth(0)
    clock.now += 3600
    assert sparing.worth(99)
    assert len(sparing._written) == 1, "nothing is kept for longer than it matters"
