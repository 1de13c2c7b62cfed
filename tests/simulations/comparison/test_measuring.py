import numpy as np
from federations import Silent, settings_of

from wardround_shared.tasks import task_of
from wardround_simulations.comparison.measuring import measure
from wardround_simulations.evaluation import open_run
from wardround_simulations.federation import simulate
from wardround_simulations.virtual_sites import read_cohorts


def test_a_patient_with_several_examples_is_one_patient(study_file, hospitals, tmp_path):
    """And the counts of all patients once are those that the site itself has counted."""
    file = hospitals / "north.csv"
    head, *rows = file.read_text().splitlines()
    file.write_text("\n".join([head, *rows, *rows, *rows]) + "\n")
    settings = settings_of(study_file, hospitals, tmp_path / "run", "privacy.mechanism=none")
    summary = simulate(settings, Silent())
    task, run = task_of(settings.study), open_run(tmp_path / "run")
    for cohort in read_cohorts(settings).cohorts:
        counts = measure(run, cohort, task)
        assert counts.patients == len(np.unique(cohort.patients[cohort.validation]))
        times = 3 if cohort.site == "north" else 1
        assert len(cohort.validation) == times * counts.patients
        once = counts.summed(np.ones(counts.patients, int))
        np.testing.assert_allclose(once, summary["counts"]["per_site"][cohort.site], rtol=1e-6)
        for patient in range(counts.patients):
            alone = counts.summed(np.arange(counts.patients) == patient)
            assert alone[0] == times


def test_a_site_without_validation_patients_counts_nothing(study_file, hospitals, tmp_path):
    settings = settings_of(study_file, hospitals, tmp_path / "run", "privacy.mechanism=none")
    simulate(settings, Silent())
    (cohort, *_) = read_cohorts(settings).cohorts
    nobody = type(cohort)(**(vars(cohort) | {"validation": cohort.validation[:0]}))
    task = task_of(settings.study)
    counts = measure(open_run(tmp_path / "run"), nobody, task)
    assert counts.patients == 0
    assert not counts.summed(np.zeros(0, int)).any()
