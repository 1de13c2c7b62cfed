"""The benchmark prints the rows that the README's figures come from."""

import json

import pytest
import torch

from wardround_simulations.benchmarks import dp
from wardround_simulations.benchmarks.dp import bench_dp
from wardround_simulations.benchmarks.dp_models import SUBJECTS, patients

FIGURES = {
    "plain_s",
    "record_s",
    "patient_s",
    "hooks_s",
    "ghost_s",
    "ew_s",
    "patient_over_plain",
    "peak_mb",
    "hooks_peak_mb",
}


def test_there_is_a_row_for_each_model_of_the_studies():
    assert [subject.name for subject in SUBJECTS] == ["mlp", "cnn", "cnn1d", "lstm"]
    subjects = tuple(subject for subject in SUBJECTS if subject.name in {"mlp", "cnn1d"})
    threads = torch.get_num_threads()
    result = bench_dp(subjects=subjects, seconds=0.0)
    assert torch.get_num_threads() == threads
    assert (result["batch"], result["examples_per_patient"], result["threads"]) == (64, 4, 1)
    assert [row["model"] for row in result["rows"]] == ["mlp", "cnn1d"]
    for row in result["rows"]:
        assert set(row) == FIGURES | {"model", "repeats", "paths", "notes"}
        assert all(row[figure] > 0 for figure in FIGURES)
        assert row["repeats"] >= dp.LEAST_REPEATS
        assert row["notes"] == []
        assert row["peak_mb"] <= row["hooks_peak_mb"]
    json.dumps(result, allow_nan=False)


def test_the_path_of_every_layer_with_parameters_is_told():
    subject = SUBJECTS[2]
    (row,) = bench_dp(subjects=(subject,), seconds=0.0)["rows"]
    layers = [name for name, m in subject.model().named_modules() if m._parameters]
    assert list(row["paths"]) == layers


def test_the_unit_is_a_patient_with_his_examples():
    assert len(patients()) == 64
    assert patients().unique(return_counts=True)[1].tolist() == [4] * 16


def test_a_mode_that_opacus_cannot_is_null_with_the_reason(monkeypatch):
    def cannot(_):
        raise NotImplementedError("no such layer")

    monkeypatch.setattr(dp, "_ghost", cannot)
    (row,) = bench_dp(subjects=SUBJECTS[:1], seconds=0.0)["rows"]
    assert row["ghost_s"] is None
    assert row["notes"] == ["Opacus ghost: NotImplementedError: no such layer"]


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_all_subjects_take_the_same_batch_in_every_mode(subject):
    inputs, labels = subject.batch()
    again, _ = subject.batch()
    assert torch.equal(inputs, again)
    assert subject.model()(inputs[:2]).shape == (2, subject.outputs)
    assert labels.max() < subject.outputs
