"""The list of models."""

from wardround_shared.models.catalogue import _TAKES, catalogue
from wardround_shared.study import MODEL_NAMES


def test_every_model_that_a_study_may_have_is_listed():
    assert sorted(MODEL_NAMES) == sorted(_TAKES)
    listed = {one.name: one for one in catalogue()}
    assert sorted(listed) == sorted(MODEL_NAMES)
    assert listed["mlp"].parameters == 13 * 32 + 32 + 32 * 2 + 2
    assert listed["mlp"].settings == {"hidden": [32], "dropout": 0.0}
    assert all(one.about.endswith(".") for one in listed.values())
