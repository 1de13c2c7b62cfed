import numpy as np
import pytest

from wardround_shared.errors import StudyError
from wardround_shared.study import load_study
from wardround_simulations import options
from wardround_simulations.tuning.space import default_space, read_space

SPACE = """
[space]
"training.learning-rate" = { low = 0.01, high = 1.0, log = true }
"training.batch-size" = { choices = [8, 16] }

[space.model]
hidden = { choices = [[], [4]] }
"""


def test_a_space_is_read_and_drawn_from(tmp_path):
    file = tmp_path / "space.toml"
    file.write_text(SPACE)
    space = read_space(file)
    random = np.random.default_rng(0)
    drawn = [space.draw(random) for _ in range(400)]
    rates = np.array([one["training.learning-rate"] for one in drawn])
    assert 0.01 <= rates.min() < 0.02
    assert 0.5 < rates.max() <= 1.0
    assert 0.4 < (rates < 0.1).mean() < 0.6  # half of them below the geometric mean
    assert {one["training.batch-size"] for one in drawn} == {8, 16}
    assert [[], [4]] in ([one["model.hidden"] for one in drawn[:20]], [[], [4]])
    again = np.random.default_rng(0)
    assert drawn == [space.draw(again) for _ in range(400)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"one table, \[space\]"),
        ("[space]\n", "at least one key"),
        ("[other]\na = 1\n", r"one table, \[space\]"),
        ('[space]\n"a.b" = { low = 2, high = 1 }\n', r"space\.a\.b"),
        ('[space]\n"a.b" = { low = 0, high = 1, log = true }\n', r"space\.a\.b"),
        ('[space]\n"a.b" = { choices = [] }\n', r"space\.a\.b"),
        ('[space]\n"a.b" = 3\n', r"space\.a\.b"),
        ("[space\n", "cannot be read"),
    ],
)
def test_what_is_no_space_is_refused(tmp_path, text, said):
    file = tmp_path / "space.toml"
    file.write_text(text)
    with pytest.raises(StudyError, match=said):
        read_space(file)


@pytest.mark.parametrize("name", sorted(f.stem for f in options.studies_folder().glob("*.toml")))
@pytest.mark.parametrize("mechanism", ["none", "dp-sgd"])
def test_each_point_of_the_default_space_is_a_study(name, mechanism):
    file, form = options.find_study(name), f"privacy.mechanism={mechanism}"
    space = default_space(load_study(file, [form]))
    assert ("privacy.max-grad-norm" in space.keys) == (mechanism == "dp-sgd")
    random = np.random.default_rng(0)
    for _ in range(5):
        point = space.draw(random)
        load_study(file, [form, *(f"{key}={value}" for key, value in point.items())])
