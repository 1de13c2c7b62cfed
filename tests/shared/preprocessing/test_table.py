"""Imputation and one-hot encoding."""

import numpy as np
import pytest

from wardround_shared.errors import CohortError, UnreadableError

IMPUTE = {"name": "impute"}
STANDARDISE = {"name": "standardise"}
ONE_HOT = {"name": "one-hot"}
# age, pain (one of three categories), pressure
TABLE = np.array([[40.0, 0.0, 120.0], [np.nan, 2.0, 140.0], [60.0, np.nan, np.nan]])


def prepared(recipe, arrays):
    fitted = ()
    for _ in recipe.needs_fit:
        fitted = (*fitted, recipe.fit(recipe.statistics(arrays, fitted), fitted))
    return recipe.transform(arrays, fitted)


def test_missing_numbers_become_the_mean_and_are_marked(make_recipe):
    (table,) = prepared(make_recipe("table", IMPUTE, ONE_HOT), (TABLE,))
    np.testing.assert_array_equal(
        table,
        [
            # age, pain 1, 2, 3, pressure, age missing, pressure missing
            [40, 1, 0, 0, 120, 0, 0],
            [50, 0, 0, 1, 140, 1, 0],
            [60, 0, 0, 0, 130, 0, 1],
        ],
    )
    assert table.dtype == np.float32


def test_the_mark_can_be_left_out(make_recipe):
    recipe = make_recipe("numeric", {**IMPUTE, "indicator": False})
    (table,) = prepared(recipe, (TABLE[:, [0, 2]],))
    np.testing.assert_array_equal(table, [[40, 120], [50, 140], [60, 130]])


@pytest.mark.parametrize("order", [(IMPUTE, STANDARDISE, ONE_HOT), (ONE_HOT, STANDARDISE, IMPUTE)])
def test_standardising_leaves_categories_and_marks_alone(make_recipe, order):
    (table,) = prepared(make_recipe("table", *order), (TABLE,))
    assert set(np.unique(table[:, [1, 2, 3, 5, 6]])) == {0.0, 1.0}
    np.testing.assert_allclose(table[:, [0, 4]].mean(0), 0.0, atol=1e-6)


def test_shapes_do_not_depend_on_what_is_missing(make_recipe):
    recipe = make_recipe("table", IMPUTE, ONE_HOT)
    complete = np.nan_to_num(TABLE)
    assert prepared(recipe, (complete,))[0].shape == prepared(recipe, (TABLE,))[0].shape
    assert recipe.output_shapes(((3,),)) == ((7,),)


def test_a_column_that_is_missing_at_every_site_becomes_zeros(make_recipe):
    nothing = TABLE.copy()
    nothing[:, 0] = np.nan
    (table,) = prepared(make_recipe("table", IMPUTE, STANDARDISE, ONE_HOT), (nothing,))
    assert not table[:, 0].any()
    assert table[:, 5].all()


def test_missing_cells_without_imputation_name_their_column(make_recipe):
    recipe = make_recipe("table", STANDARDISE, ONE_HOT)
    with pytest.raises(CohortError, match="pain"):
        recipe.statistics((TABLE[[0, 2]][:, [0, 1, 0]],), ())
    with pytest.raises(CohortError, match="pain"):
        make_recipe("table", ONE_HOT).transform((TABLE[[0, 2]],), ())


def test_static_columns_take_the_column_steps(make_recipe):
    recipe = make_recipe("beats", IMPUTE, {**STANDARDISE, "part": "static"}, ONE_HOT)
    signals = np.ones((4, 1, 20), np.float32)
    # RR interval, sex, RR interval relative to the patient's median
    static = np.array([[0.8, 0, 1.0], [np.nan, 1, np.nan], [1.0, np.nan, 1.25], [0.9, 1, 1.1]])
    main, columns = prepared(recipe, (signals, static))
    assert main is signals
    assert columns.shape == (4, 6)
    np.testing.assert_allclose(columns[:, [0, 3]].mean(0), 0.0, atol=1e-6)
    np.testing.assert_array_equal(columns[:, 1:3], [[1, 0], [0, 1], [0, 0], [0, 1]])
    assert recipe.output_shapes(((1, 20), (3,))) == ((1, 20), (6,))


@pytest.mark.parametrize("row", [np.zeros(2), np.array([1.0, 2.0, np.inf])])
def test_a_row_that_does_not_fit_the_study_is_unreadable(make_recipe, row):
    with pytest.raises(UnreadableError, match="the row"):
        make_recipe("table", ONE_HOT).decode(row)


def test_columns_beside_an_image_leave_the_image_alone(make_recipe):
    recipe = make_recipe("fusion", IMPUTE, {**STANDARDISE, "part": "static"}, ONE_HOT)
    pixels = np.full((8, 8), 51, np.uint8)
    decoded = [recipe.decode(pixels, np.array(row)) for row in ([40.0, 0], [np.nan, 1], [60, 1])]
    images, static = (np.stack(part) for part in zip(*decoded, strict=True))
    main, columns = prepared(recipe, (images, static))
    assert main is images
    np.testing.assert_allclose(images, 0.2)
    np.testing.assert_allclose(columns[:, 0], [-np.sqrt(1.5), 0.0, np.sqrt(1.5)], atol=1e-6)
    np.testing.assert_array_equal(columns[:, 1:], [[1, 0, 0], [0, 1, 1], [0, 1, 0]])


@pytest.mark.parametrize(("source", "main"), [("beats", (20,)), ("fusion", (8, 8))])
def test_a_record_without_its_static_columns_is_unreadable(make_recipe, source, main):
    with pytest.raises(UnreadableError, match="static"):
        make_recipe(source, ONE_HOT).decode(np.zeros(main))


def test_decoding_a_row_keeps_missing_cells_and_float64(make_recipe):
    recipe = make_recipe("table", IMPUTE, ONE_HOT)
    (row,) = recipe.decode(TABLE[1])
    assert row.dtype == np.float64
    np.testing.assert_array_equal(row, TABLE[1])
