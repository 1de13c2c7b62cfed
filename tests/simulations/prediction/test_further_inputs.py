"""Sequences, texts, volumes and FHIR: read and predicted as `evaluate` does."""

import json

import numpy as np
import pytest
from bundles import DATA, STEPS, a_patient, bundle, condition, encounter, patient, weight, write
from predictions import answers, predicted, require_same
from trained import (
    NOTES,
    SEQUENCES,
    TAIL,
    VOLUMES,
    trained,
    write_nights,
    write_notes,
    write_volumes,
)
from typer.testing import CliRunner

from wardround_shared.tasks import NO_CLASS
from wardround_simulations import cli
from wardround_simulations.evaluation import evaluate_run, open_run
from wardround_simulations.prediction.prediction import predict_inputs

RECORDS = f"""
[study]
name = "small-charts"
task = "record-classification"
classes = ["none", "ill"]
{DATA}{STEPS}
[model]
name = "gru"
hidden = 4
dense = 4
[simulation]
sites = 2
"""


def ask(*arguments):
    return CliRunner().invoke(cli.app, ["predict", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


class TestSequences:
    def test_steps_are_predicted_as_evaluate_does_without_their_labels(self, data, tmp_path):
        files = write_nights(data)
        run = trained(SEQUENCES + TAIL, data, tmp_path)
        bare = tmp_path / "bare"
        bare.mkdir()
        paths, targets = [], []
        for path, labels in files[::2]:
            with np.load(path) as file:
                np.savez(bare / path.name, X=file["X"])
            paths.append(bare / path.name)
            padded = np.pad(labels, (0, -len(labels) % 8), constant_values=NO_CLASS)
            targets += [*padded.reshape(-1, 8)]
        values = predicted(run, paths)
        require_same(run, data, tmp_path / "cache", "north", values, targets)

    def test_there_is_a_row_for_each_step_of_the_file_and_none_for_what_fills_it_up(
        self, data, tmp_path
    ):
        (path, labels), *_ = write_nights(data)
        run = trained(SEQUENCES + TAIL, data, tmp_path)
        out = tmp_path / "out.csv"
        done = ask(run, path, "--json", "--out", out)
        predictions = json.loads(done.stdout)["predictions"]
        steps = [step for one in predictions for step in one["steps"]]
        assert [step["step"] for step in steps] == [*range(len(labels))]
        assert {one["input"] for one in predictions} == {str(path)}
        for step in steps:
            assert step["answer"] == max(step["model"], key=step["model"].get)
        lines = out.read_text().splitlines()
        assert lines[0].startswith("input,answer,step,W,N,R,")
        assert len(lines) == 1 + len(labels)
        assert lines[-1].startswith(f"{path},{steps[-1]['answer']},{len(labels) - 1},")

    def test_a_file_without_steps_is_one_sentence(self, data, tmp_path):
        (path, _), *_ = write_nights(data)
        run = trained(SEQUENCES + TAIL, data, tmp_path)
        np.savez(tmp_path / "other.npz", Z=np.zeros(3))
        (tmp_path / "torn.npz").write_bytes(path.read_bytes()[:50])
        why = [
            one.why
            for one in predict_inputs(
                open_run(run), [tmp_path / "other.npz", tmp_path / "torn.npz", data / "nights.csv"]
            )
        ]
        assert why == [
            "the file lacks an array that the study names",
            "this is not a readable npz file, or it is truncated",
            "this is a table, and the model takes a file of arrays (npz)",
        ]


def test_texts_are_predicted_as_evaluate_does_with_or_without_labels(data, tmp_path):
    labels = write_notes(data)
    run = trained(NOTES + TAIL, data, tmp_path)
    for site, targets in labels.items():
        values = predicted(run, [data / f"{site}.csv"])
        require_same(run, data, tmp_path / "cache", site, values, targets)
    (tmp_path / "new.csv").write_text('id,note\n1,"dense lung,\nnumber 3"\n')
    (found,) = answers(run, [tmp_path / "new.csv"])
    assert found.input == f"{tmp_path}/new.csv:3"
    (tmp_path / "none.csv").write_text("id,text\n1,dense\n")
    (lacking,) = predict_inputs(open_run(run), [tmp_path / "none.csv"])
    assert lacking.why == "there is no column 'note'; the columns are id, text"


def test_slices_of_volumes_are_predicted_as_evaluate_does(data, tmp_path):
    pytest.importorskip("nibabel", reason="the extra 'nifti' is not installed")
    files = write_volumes(data)
    run = trained(VOLUMES + TAIL, data, tmp_path)
    mine = files[::2]
    found = answers(run, [path for path, _ in mine], columns=data / "labels.csv")
    assert [one.number for one in found[:4]] == [1, 3, 1, 3]
    values = np.stack([one.values for one in found])
    targets = [label for _, label in mine for _ in range(2)]
    require_same(run, data, tmp_path / "cache", "north", values, targets)
    torn = tmp_path / "torn.nii.gz"
    torn.write_bytes(files[0][0].read_bytes()[:90])
    (failed,) = predict_inputs(open_run(run), [torn], columns={"age": "60"})
    assert failed.why == "the file is not a NIfTI file"


def test_cells_beside_a_file_are_those_of_its_row(data, tmp_path):
    pytest.importorskip("nibabel", reason="the extra 'nifti' is not installed")
    (path, _), *_ = write_volumes(data)
    run = trained(VOLUMES + TAIL, data, tmp_path)
    of_table = answers(run, [path], columns=data / "labels.csv")
    of_cells = answers(run, [path], columns={"age": "40"})
    other = answers(run, [path], columns={"age": "90"})
    for one, same, not_same in zip(of_table, of_cells, other, strict=True):
        assert np.array_equal(one.values, same.values)
        assert not np.array_equal(one.values, not_same.values)
    (lacking,) = predict_inputs(open_run(run), [path], columns={"sex": "f"})
    assert lacking.why == "the model takes age beside the file, and age was not given"


def test_columns_that_the_model_does_not_take_are_refused(data, tmp_path):
    pytest.importorskip("nibabel", reason="the extra 'nifti' is not installed")
    (path, _), *_ = write_volumes(data)
    run = trained(VOLUMES + TAIL, data, tmp_path)
    (surplus,) = predict_inputs(open_run(run), [path], columns={"sex": "f", "age": "40"})
    assert surplus.why == "the model takes age beside the file, not sex"


def test_a_model_without_columns_beside_its_inputs_refuses_a_table_of_them(data, tmp_path):
    write_notes(data)
    run = trained(NOTES + TAIL, data, tmp_path)
    notes, table = data / "north.csv", tmp_path / "absent.csv"
    done = ask(run, notes, "--columns", table)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "error: Columns were given, and the model takes none beside a file; leave them out.\n"
    )
    assert ask(run, notes).exit_code == 0


def test_a_cell_that_others_would_have_to_be_compared_with_is_refused(data, tmp_path):
    pytest.importorskip("nibabel", reason="the extra 'nifti' is not installed")
    (path, _), *_ = write_volumes(data)
    compared = VOLUMES.replace('{ column = "age" }', '{ column = "age", form = "over-patient" }')
    run = trained(compared + TAIL, data, tmp_path)
    (refused,) = predict_inputs(open_run(run), [path], columns={"age": "40"})
    assert refused.why.startswith("the column age is compared with the patient's other rows")


class TestFhir:
    @pytest.fixture
    def run(self, data, tmp_path):
        people = [a_patient(f"p{number}", ill=number % 2 == 1) for number in range(12)]
        write(data, *(bundle(*resources) for resources in people))
        changes = ("aggregation.minimum-sites=2",)
        return trained(RECORDS + TAIL, data, tmp_path, *changes)

    def test_patients_are_predicted_as_evaluate_does(self, run, data, tmp_path):
        paths = sorted(data.iterdir())
        values = predicted(run, paths)
        (site,) = evaluate_run(run, data, cache=tmp_path / "cache")["per_site"]
        targets = [number % 2 for number in range(12)]
        require_same(run, data, tmp_path / "cache", site, values, targets)

    def test_what_comes_after_the_day_of_the_prediction_need_not_be_known(self, run, tmp_path):
        """In training such a patient is left out, since nobody knows what came."""
        today = [one for one in a_patient() if "2014" not in str(one)]
        file = tmp_path / "today.json"
        file.write_text(json.dumps(bundle(*today)))
        (found,) = answers(run, [file])
        assert found.input == str(file)

    def test_a_patient_whom_the_question_does_not_concern_gets_a_sentence(self, run, tmp_path):
        file = tmp_path / "ill.json"
        file.write_text(json.dumps(bundle(*a_patient(), condition("2010-05-01"))))
        (found,) = predict_inputs(open_run(run), [file])
        assert found.why == "the condition began before the prediction"

    def test_a_bundle_that_cannot_be_used_is_one_sentence_and_the_others_are_predicted(
        self, run, data, tmp_path
    ):
        orphan, early, torn = (tmp_path / f"{name}.json" for name in ("orphan", "early", "torn"))
        orphan.write_text(json.dumps(bundle()))
        early.write_text(json.dumps(bundle(*[patient(), weight(70, "2010-01-01"),
                                             encounter("2010-01-01")])))  # fmt: skip
        torn.write_text('{"resourceType": "Bund')
        good = min(data.iterdir())
        done = ask(run, orphan, early, torn, good, "--json")
        assert done.exit_code == 1
        assert done.stderr.splitlines() == [
            f"error: {orphan}: there is no Patient.",
            f"error: {early}: no day of prediction.",
            f"error: {torn}: this is not valid JSON.",
        ]
        (only,) = json.loads(done.stdout)["predictions"]
        assert only["input"] == str(good)
