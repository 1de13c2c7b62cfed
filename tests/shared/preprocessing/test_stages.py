"""Which recipes are refused, and why."""

import pytest

from wardround_shared.errors import StudyError

RESIZE = {"name": "resize", "size": [8, 8]}
WINDOW = {"name": "window", "low": 0.0, "high": 1.0}
HISTOGRAM = {"name": "histogram", "low": 0.0, "high": 1.0, "bins": 4}
IMPUTE = {"name": "impute"}
STANDARDISE = {"name": "standardise"}
NORMALISE = {"name": "normalise"}
MATCH = {"name": "match-histogram"}
ONE_HOT = {"name": "one-hot"}
BAND_PASS = {"name": "band-pass", "low": 0.5, "high": 40.0}


@pytest.mark.parametrize(
    ("source", "steps", "fault"),
    [
        ("table", [IMPUTE], "pain is categorical"),
        ("table", [ONE_HOT, RESIZE], "resize does not fit"),
        ("table", [ONE_HOT, {"name": "augment", "noise": 0.1}], "augment does not fit"),
        ("table", [ONE_HOT, {"name": "standardise", "part": "static"}], "static"),
        ("numeric", [IMPUTE, IMPUTE], "twice"),
        ("image", [IMPUTE], "impute does not fit"),
        ("image", [BAND_PASS], "band-pass does not fit"),
        ("table", [MATCH, ONE_HOT], "match-histogram does not fit"),
        ("signal", [MATCH], "match-histogram does not fit"),
        ("image", [MATCH, MATCH], "twice"),
        ("image", [MATCH, RESIZE], "resize comes too late"),
        ("image", [HISTOGRAM, MATCH], "match-histogram needs an image"),
        ("image", [NORMALISE, MATCH], "leave normalise out"),
        ("image", [STANDARDISE, MATCH], "would undo standardise"),
        ("image", [STANDARDISE, RESIZE], "resize comes too late"),
        ("image", [{"name": "augment"}, STANDARDISE], "standardise comes too late"),
        ("image", [HISTOGRAM, WINDOW], "cannot follow histogram"),
        ("image", [HISTOGRAM, {"name": "augment"}], "augment cannot follow histogram"),
        ("signal", [WINDOW], "window does not fit"),
        ("signal", [ONE_HOT], "one-hot does not fit"),
        ("signal", [{"name": "standardise", "part": "static"}], "static"),
        ("image", [{"name": "standardise", "part": "static"}], "needs columns in data.static"),
        ("phantom", [{"name": "standardise", "part": "static"}], '"phantom" does not have'),
        ("fusion", [IMPUTE], "sex is categorical"),
        ("signal", [{"name": "augment", "rotate": 5.0}], "images only"),
        ("signal", [{"name": "resample", "rate": 60.0}, BAND_PASS], "below half"),
        ("beats", [], "sex is categorical"),
    ],
)
def test_an_impossible_recipe_is_refused(make_recipe, source, steps, fault):
    with pytest.raises(StudyError, match=fault):
        make_recipe(source, *steps)


@pytest.mark.parametrize(
    ("source", "steps", "fitted"),
    [
        ("table", [ONE_HOT], ()),
        ("table", [IMPUTE, STANDARDISE, ONE_HOT], ("impute", "standardise")),
        ("image", [RESIZE, WINDOW, HISTOGRAM, STANDARDISE], ("standardise",)),
        ("image", [], ()),
        ("image", [WINDOW, MATCH, STANDARDISE], ("match-histogram", "standardise")),
        ("fusion", [IMPUTE, MATCH, ONE_HOT], ("impute", "match-histogram")),
        (
            "beats",
            [BAND_PASS, STANDARDISE, IMPUTE, {"name": "standardise", "part": "static"}, ONE_HOT],
            ("standardise", "impute", "standardise"),
        ),
        ("fusion", [STANDARDISE, IMPUTE, ONE_HOT], ("standardise", "impute")),
        (
            "fusion",
            [HISTOGRAM, STANDARDISE, {"name": "standardise", "part": "static"}, ONE_HOT],
            ("standardise", "standardise"),
        ),
    ],
)
def test_steps_that_need_sums_over_sites_are_named_in_order(make_recipe, source, steps, fitted):
    assert make_recipe(source, *steps).needs_fit == fitted
