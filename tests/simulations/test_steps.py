import io

from rich.console import Console

from wardround_server.rounds import RosterLine
from wardround_simulations.steps import Bars, Lines, watching


def test_a_line_for_each_step_and_one_where_it_takes_long():
    times = iter([0.0, 1.0, 15.0, 15.0, 20.0, 100.0])
    stream = io.StringIO()
    lines = Lines(stream, clock=lambda: next(times))
    lines.planned(2)
    parts = lines.begin("pooled", 30)
    parts.done(1)  # after one second
    parts.done(2)  # after fifteen
    parts.done(3)  # after five more
    lines.begin("north alone", 30)
    assert stream.getvalue().splitlines() == ["1 of 2: pooled", "  2 of 30", "2 of 2: north alone"]


def test_a_run_tells_the_bar_its_rounds():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Bars(console) as bars:
        bars.planned(2)
        bars.begin("[red]north alone", 30).closed(line_of(7), {}, 0.1)
    assert "[red]north alone" in console.file.getvalue()
    assert "7/30" in console.file.getvalue()


def test_a_pipe_gets_lines():
    with watching(io.StringIO()) as watcher:
        assert isinstance(watcher, Lines)


def line_of(number):
    return RosterLine(round=number, invited=(), trained=(), aggregated=(), dropped=())
