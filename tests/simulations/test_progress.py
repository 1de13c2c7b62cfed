import io
import os

import pytest
from rich.console import Console

from wardround_server.rounds import Dropped
from wardround_simulations.progress import Bars, PlainLines

BRACKETS = "Sankt [/b] X"


def test_brackets_in_a_sites_name_are_shown_as_they_are():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=120)
    with Bars(2, console) as bars:
        bars.joined([BRACKETS], [Dropped(site=BRACKETS, why="[/no] answer")])
        bars.answered(1, BRACKETS, "[/lost]")
    shown = screen.getvalue().splitlines()
    assert any("left out" in line and BRACKETS in line for line in shown)
    assert any("sites" in line and BRACKETS in line for line in shown)


@pytest.mark.parametrize("begin", [PlainLines, lambda rounds, _: Bars(rounds, Console(quiet=True))])
def test_a_run_has_begun_once_its_sites_are_called_together(begin):
    observer = begin(1, io.StringIO())
    assert not observer.begun
    observer.joined(["north"], [])
    assert observer.begun


def test_a_reader_who_has_left_does_not_stop_the_run():
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    lines = PlainLines(2, stream)
    lines.joined(["north"], [])
    assert os.read(reading, 100) == b"1 sites: north\n"
    os.close(reading)
    lines.answered(1, "north", "lost")
    lines.answered(2, "north", "lost")
    stream.close()  # what was buffered is not a complaint either
