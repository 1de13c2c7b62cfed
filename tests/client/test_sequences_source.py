"""Files of many steps become examples of one length; nothing of a step gets lost or doubled."""

import numpy as np
import pytest

from wardround_client.sources import SetAside, open_source
from wardround_shared.errors import CohortError, StudyError
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import parse_study
from wardround_shared.tasks import NO_CLASS

STUDY = """
[study]
name = "night"
task = "sequence-labelling"
classes = ["wake", "sleep"]

[data]
source = "sequences"
table = ["nights.csv"]
record = "night"
length = 4
label = { column = "y", values = { wake = ["0"], sleep = ["1", "2"] } }
missing = ["", "9"]
patient = "subject"

[model]
name = "lstm"

[training]
rounds = 1
learning-rate = 0.1

[privacy]
mechanism = "none"

[simulation]
sites = 3
"""


def study(*changes):
    return parse_study(STUDY, origin="night.toml", overrides=changes)


def write(folder, name="a", steps=10, **arrays):
    x = np.arange(steps * 3, dtype=np.float32).reshape(steps, 3)
    y = np.arange(steps) % 3
    np.savez(folder / f"{name}.npz", **({"X": x, "y": y} | arrays))


def table(folder, *names):
    lines = [f"{name},{number}" for number, name in enumerate(names)]
    (folder / "nights.csv").write_text("\n".join(["night,subject", *lines]) + "\n")


def read(folder, *changes):
    return list(open_source(study(*changes), folder).records())


def test_every_step_is_in_one_example_and_the_rest_is_filled_up_without_a_class(tmp_path):
    write(tmp_path)
    table(tmp_path, "a")
    first, second, third = read(tmp_path)
    assert first.main.shape == (3, 4)
    np.testing.assert_array_equal(
        np.concatenate([first.main, second.main, third.main], axis=1)[0], [*range(0, 30, 3), 27, 27]
    )
    targets = np.concatenate([first.target, second.target, third.target])
    np.testing.assert_array_equal(targets[:10], (np.arange(10) % 3 > 0).astype(int))
    np.testing.assert_array_equal(targets[10:], [NO_CLASS, NO_CLASS])
    assert {r.patient for r in (first, second, third)} == {"0"}


def test_a_missing_label_is_a_step_without_a_class(tmp_path):
    write(tmp_path, steps=4, y=np.array([0, 9, 1, 2]))
    table(tmp_path, "a")
    (only,) = read(tmp_path)
    np.testing.assert_array_equal(only.target, [0, NO_CLASS, 1, 1])


def test_a_label_that_is_no_class_stops_the_study(tmp_path):
    write(tmp_path, y=np.full(10, 7))
    table(tmp_path, "a")
    with pytest.raises(CohortError, match=r"array y holds '7', which is none of the study's"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"y": np.zeros(9)}, "steps and labels differ in length"),
        ({"X": np.zeros(10)}, "the steps are no array of numbers [steps, channels]"),
        ({"X": np.zeros((0, 3)), "y": np.zeros(0)}, "the steps are no array of numbers"),
        ({"X": np.full((10, 3), "a")}, "the steps are no array of numbers"),
        ({"X": np.array([[{}]])}, "this is not a readable npz file, or it is truncated"),
    ],
)
def test_a_file_that_cannot_be_used_is_set_aside_and_the_others_are_read(tmp_path, arrays, reason):
    write(tmp_path, "bad", **arrays)
    write(tmp_path, "good", steps=4)
    table(tmp_path, "bad", "good", "absent")
    bad, good, absent = read(tmp_path)
    assert isinstance(bad, SetAside)
    assert bad.reason.startswith(reason)
    assert good.patient == "1"
    assert absent.reason == "the file is not there"


def test_an_array_that_is_not_there_is_told(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.zeros((4, 3)))
    table(tmp_path, "a")
    (aside,) = read(tmp_path)
    assert aside.reason == "the file lacks an array that the study names"


def test_a_file_outside_the_folder_is_not_opened(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    write(tmp_path, "secret")
    table(inner, "../secret")
    (aside,) = read(inner)
    assert aside.reason == "the table names no file inside the data folder"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('preprocessing.steps=[{name="crop",length=2}]', "crop would part the steps"),
        ('preprocessing.steps=[{name="augment",shift=0.1}]', "shift would part the steps"),
        ('data.label={column="y",containing={wake=["0"]}}', "a step has one class"),
        ('simulation.partition="dirichlet"', "have no single class"),
        ('study.task="signal-classification"', "does not fit data.source"),
    ],
)
def test_what_does_not_go_with_steps_is_refused(change, said):
    with pytest.raises(StudyError, match=said):
        Recipe(study(change))
