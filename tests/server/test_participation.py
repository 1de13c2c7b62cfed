"""What is said of a run's participation adds up and hides nobody."""

import doctest
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_server import participation as module
from wardround_server.participation import participation, participation_in
from wardround_shared.errors import RunFolderError

SITES = ("east", "north", "west")


def line(number, aggregated, *, dropped=(), absent=()):
    return {
        "round": number,
        "invited": [*aggregated, *(site for site, _ in dropped)],
        "trained": list(aggregated),
        "aggregated": list(aggregated),
        "dropped": [{"site": site, "why": why} for site, why in dropped],
        "absent": [{"site": site, "why": why} for site, why in absent],
        "attempts": 1,
    }


def test_everybody_in_all_rounds_is_one_short_sentence():
    found = participation([line(1, SITES), line(2, SITES)], sites=SITES, planned=2)
    assert found.sentence == "3 of 3 sites took part in 2 of 2 rounds."


def test_the_largest_site_cannot_be_left_out_silently():
    lines = [line(1, SITES)] + [
        line(n, ("east", "north"), dropped=[("west", "no answer in time")]) for n in range(2, 21)
    ]
    found = participation(lines, sites=SITES, planned=20)
    assert found.sentence == (
        "2 of 3 sites took part in 20 of 20 rounds; west in 1 only (no answer in time)."
    )
    assert found.shares["west"].why_not == {"no answer in time": 19}


def test_a_site_that_never_came_is_counted():
    lines = [line(1, ("east", "north"), absent=[("west", "it has not answered")])]
    found = participation(lines, sites=SITES, planned=1)
    assert found.sentence == (
        "2 of 3 sites took part in 1 of 1 rounds; west in none (it has not answered)."
    )


def test_rounds_given_up_do_not_count():
    given_up = line(2, (), dropped=[(site, "the round was given up") for site in SITES])
    found = participation([line(1, SITES), given_up], sites=SITES, planned=3)
    assert found.sentence == "3 of 3 sites took part in 1 of 3 rounds."
    assert found.shares["east"].why_not == {"the round was given up": 1}


def test_a_run_without_a_round_has_no_participants():
    assert participation([], sites=SITES, planned=3).sentence == (
        "0 of 3 sites took part in 0 of 3 rounds."
    )
    given_up = line(1, (), dropped=[(site, "gone") for site in SITES])
    assert participation([given_up], sites=SITES, planned=3).sentence == (
        "0 of 3 sites took part in 0 of 3 rounds."
    )


def test_lines_of_older_runs_are_read():
    old = {k: v for k, v in line(1, SITES).items() if k not in {"absent", "attempts"}}
    assert participation([old], sites=SITES, planned=1).rounds == 1


@given(
    fates=st.lists(
        st.lists(st.sampled_from(["in", "dropped", "absent"]), min_size=3, max_size=3), max_size=8
    )
)
def test_each_round_of_each_site_is_counted_once(fates):
    lines = []
    for number, fate in enumerate(fates, 1):
        by = {kind: [s for s, f in zip(SITES, fate, strict=True) if f == kind] for kind in fate}
        lines.append(
            line(
                number,
                by.get("in", ()),
                dropped=[(site, "why") for site in by.get("dropped", ())],
                absent=[(site, "away") for site in by.get("absent", ())],
            )
        )
    found = participation(lines, sites=SITES, planned=8)
    for place, site in enumerate(SITES):
        share = found.shares[site]
        assert share.rounds == sum(fate[place] == "in" for fate in fates)
        assert share.rounds + sum(share.why_not.values()) == len(fates)
    assert json.dumps(found.as_json())


def test_a_folder_that_is_being_written_is_read_up_to_its_last_whole_line(tmp_path):
    whole = json.dumps(line(1, SITES)) + "\n"
    (tmp_path / "roster.jsonl").write_text(whole + whole[:40])
    assert participation_in(tmp_path, sites=SITES, planned=2).rounds == 1
    (tmp_path / "roster.jsonl").write_text(whole[:40] + "\n" + whole)
    with pytest.raises(RunFolderError, match="damaged"):
        participation_in(tmp_path, sites=SITES, planned=2)
    (tmp_path / "roster.jsonl").write_text("{}\n")
    with pytest.raises(RunFolderError, match="damaged"):
        participation_in(tmp_path, sites=SITES, planned=2)


def test_many_sites_do_not_make_the_sentence_endless():
    sites = [f"site-{n:03}" for n in range(100)]
    found = participation([line(1, sites[:10])], sites=sites, planned=1)
    assert found.sentence.startswith("10 of 100 sites took part in 1 of 1 rounds; site-010 in none")
    assert found.sentence.endswith("; 82 more in fewer rounds or none.")


def test_the_examples_are_right():
    assert doctest.testmod(module).failed == 0
