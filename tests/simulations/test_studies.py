"""Each study that is shipped runs, in a short form, on the data that it is made for."""

import os
from pathlib import Path

import pytest
from federations import Silent, settings_of

from wardround_simulations import options
from wardround_simulations.federation import simulate

DATA = Path(os.environ.get("WARDROUND_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
FOLDERS = {
    "arrhythmia": "ecg-mitbih",
    "chest-xray": "cxr-2sites",
    "ct-body": "ct-tcga-dicom",
    "ct-contrast": "ct-tcga-dicom",
    "ct-fusion": "ct-tcga-dicom",
    "diabetes": "tabular-small",
    "eeg-sleep-features": "eeg-sleep-features",
    "ecg-findings": "ecg-ptbxl",
    "ecg-norm": "ecg-ptbxl",
    "fhir-synthea": "fhir-synthea",
    "eeg-mental-arithmetic": "eeg-mental-arithmetic",
    "heart-disease": "heart-disease-uci",
    "icu-mortality": "icu-eicu-demo",
    "phantom": "",
    "phantom-localisation": "",
    "phantom-segmentation": "",
    "pneumonia": "pneumoniamnist",
    "pneumonia-images": "pneumoniamnist",
    "survival-tcga-brca": "survival-tcga-brca",
    "text-mts-dialog": "text-mts-dialog",
}
SHORT = ("training.rounds=1", "training.local-epochs=1", "training.average-last=1")


def test_every_study_is_run_here():
    assert sorted(FOLDERS) == sorted(file.stem for file in options.studies_folder().glob("*.toml"))


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_a_study_runs_on_its_data(tmp_path, name):
    data = DATA / FOLDERS[name] if FOLDERS[name] else None
    if data is not None and not data.is_dir():
        pytest.skip(f"the data set {FOLDERS[name]} is not here")
    short = (*SHORT, *(["data.patients-per-site=40"] if data is None else []))
    short = (*short, "privacy.mechanism=none")
    study = options.find_study(name)
    summary = simulate(settings_of(study, data, tmp_path / "run", *short), Silent())
    assert summary["status"] == "complete"
    assert summary["metrics"]["n"] > 0
    assert not summary["dropped"]
    assert summary["sites"] == len(summary["cohorts"]) > 1
    assert "## Metrics" in (tmp_path / "run" / "model-card.md").read_text()
