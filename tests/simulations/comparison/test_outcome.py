"""What is told of several ways, from their values in each draw."""

from types import SimpleNamespace

import numpy as np
import pytest

from wardround_simulations.comparison.bootstrap import ALL, Interval
from wardround_simulations.comparison.outcome import (
    Trained,
    differences_said,
    measures,
    verdict_of,
)
from wardround_simulations.comparison.tables import comparison_text, show

DRAWS = np.linspace(-0.1, 0.1, 100)


def values(mean, *, moved=0.0):
    return np.array([mean, *(mean + moved + DRAWS)])


def trained(key, site=""):
    way = SimpleNamespace(key=key, kind=key.split("/", maxsplit=1)[0], site=site, title=key)
    return Trained(way=way, by_seed={})


WAYS = [trained("pooled"), trained("alone/north", "north"), trained("federated")]
PATIENTS = {ALL: 50, "north": 50}


def found(**means):
    return {
        way: {scope: {"auroc": values(mean)} for scope in PATIENTS}
        for way, mean in zip(("pooled", "alone/north", "federated"), means.values(), strict=True)
    }


def test_a_difference_is_after_minus_before_in_each_draw():
    """The draws move both alike, so that the difference has hardly any spread."""
    said = differences_said(WAYS, found(pooled=0.9, alone=0.7, federated=0.8), PATIENTS)
    over_pooled, over_alone = said
    assert (over_pooled["of"], over_pooled["minus"]) == ("federated", "pooled")
    assert over_pooled["site"] is None
    assert over_pooled["metrics"]["auroc"]["value"] == pytest.approx(-0.1)
    assert over_pooled["verdicts"]["auroc"] == "loses"
    assert (over_alone["site"], over_alone["minus"]) == ("north", "alone/north")
    for end in ("value", "low", "high"):
        assert over_alone["metrics"]["auroc"][end] == pytest.approx(0.1)
    assert over_alone["verdicts"]["auroc"] == "gains"


def test_fewer_patients_tell_nothing():
    few = {ALL: 50, "north": 19}
    _, over_alone = differences_said(WAYS, found(pooled=0.9, alone=0.7, federated=0.8), few)
    assert over_alone["verdicts"]["auroc"] == "too few patients to tell"
    assert over_alone["metrics"]["auroc"]["low"] is None


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.2, "gains"),
        (-0.2, -0.01, "loses"),
        (-0.01, 0.2, "cannot be told"),
        (0.0, 0.2, "cannot be told"),
        (None, None, "too few patients to tell"),
    ],
)
def test_the_verdict_is_as_sure_as_the_interval(low, high, verdict):
    assert verdict_of(Interval(value=0.1, low=low, high=high)) == verdict


def test_the_first_measure_is_one_that_is_defined():
    scopes = {"auroc": np.array([np.nan]), "accuracy": np.ones(1), "loss": np.ones(1)}
    assert measures({"federated": {ALL: scopes}}) == ["accuracy"]


def result_of(sites):
    figure = {"auroc": {"value": 0.8, "low": 0.7, "high": 0.9}}
    way = {
        "way": "federated",
        "kind": "federated",
        "title": "federated",
        "passes": 3,
        "epsilon": None,
        "secure_aggregation": True,
        "seconds": 1.0,
        "failed": None,
        "by_seed": {"auroc": [0.81, None]},
        "metrics": figure,
        "per_site": dict.fromkeys(sites, figure),
    }
    cohort = {"train_patients": 9, "validation_patients": 5, "validation": 5}
    return {
        "study": "small",
        "study_id": "abc",
        "command": "wardround",
        "seeds": [0],
        "draws": 10,
        "unit": "patient",
        "patients": 5,
        "shown": ["auroc"],
        "sites": dict.fromkeys(sites, cohort),
        "ways": [way],
        "differences": [],
        "notes": [],
    }


def test_many_sites_have_no_column_each():
    for number, columns in ((8, 10), (9, 2)):
        table, _ = show(result_of([f"site-{i}" for i in range(number)]))
        assert len(table.columns) == columns


def test_each_seed_has_its_figure():
    assert "| federated | 3 | yes | - | 1 | 0.810 - |" in comparison_text(result_of(["north"]))


def test_a_site_s_name_is_text_and_nothing_else():
    text = comparison_text(result_of(["a|b"]))
    rows = [line for line in text.splitlines() if line.startswith("| a\\")]
    assert rows == ["| a\\|b | 9 | 5 | 5 |"]
    table, _ = show(result_of(["[red]\x1b[31m"]))
    assert table.columns[2].header.plain == "[red]?[31m"
