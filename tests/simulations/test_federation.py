"""A whole federation in memory and over processes."""

import json
import multiprocessing
import shutil

import numpy as np
import pytest
from federations import Silent, arrays_of, settings_of
from hospitals import write_hospital

from wardround_client.policy import Policy
from wardround_client.split import patient_code
from wardround_shared.errors import (
    BudgetError,
    CohortError,
    LedgerError,
    NotEnoughSitesError,
    PrivacyError,
    RunError,
    StudyError,
)
from wardround_shared.study import load_study
from wardround_simulations.evaluation import evaluate_run
from wardround_simulations.federation import simulate


def test_inline_and_process_give_the_same_model_to_the_last_bit(study_file, hospitals, tmp_path):
    for backend in ("inline", "process"):
        plain = settings_of(
            study_file, hospitals, tmp_path / backend, "privacy.mechanism=none", backend=backend
        )
        simulate(plain, Silent())
    one, other = arrays_of(tmp_path / "inline"), arrays_of(tmp_path / "process")
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_private_runs_repeat_only_with_injected_noise(study_file, hospitals, tmp_path):
    def model(name: str, **keys) -> np.ndarray:
        summary = simulate(settings_of(study_file, hospitals, tmp_path / name, **keys), Silent())
        assert summary["noise"] == ("injected for a test" if "noise_seed" in keys else "system")
        return np.concatenate([a.ravel() for a in arrays_of(tmp_path / name).values()])

    injected = model("a", noise_seed=1)
    np.testing.assert_array_equal(injected, model("b", noise_seed=1, backend="process"))
    assert not np.array_equal(model("c"), model("d"))


def test_the_summary_has_what_the_design_promises(study_file, hospitals, tmp_path):
    summary = simulate(settings_of(study_file, hospitals, tmp_path / "run"), Silent())
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "complete"
    assert summary["sites"] == 3
    assert summary["rounds"] == 3
    assert set(summary["per_site"]) == {"north", "south", "west"}
    for metrics in (summary["metrics"], *summary["per_site"].values()):
        assert set(metrics) >= {
            *("accuracy", "balanced_accuracy", "auroc", "f1_macro"),
            *("sensitivity", "specificity", "n"),
        }
    assert summary["metrics"]["n"] == sum(m["n"] for m in summary["per_site"].values())
    assert set(summary["privacy"]["epsilon"]) == {"north", "south", "west"}
    assert all(7.5 < e <= 8.0 for e in summary["privacy"]["epsilon"].values())
    assert summary["privacy"]["unit"] == "patient"
    for site, spent in summary["privacy"]["spent"].items():
        assert spent["epsilon"] == max(spent["prv"], spent["rdp"])
        book = summary["privacy"]["ledger"][site]
        assert book == {"cap": 8.0, "delta": 1e-5, "spent": spent["epsilon"], "left": book["left"]}
        assert book["left"] == pytest.approx(8.0 - spent["epsilon"])
    assert summary["secure_aggregation"] is False
    assert summary["dropped"] == []
    seconds = summary["seconds"]
    assert seconds["total"] == pytest.approx(seconds["training"] + seconds["overhead"])
    assert summary["peak_rss_mb"] > 50
    roster = (tmp_path / "run" / "roster.jsonl").read_text().splitlines()
    assert [json.loads(line)["aggregated"] for line in roster] == [["north", "south", "west"]] * 3
    rounds = (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in rounds] == [1, 2, 3, 4]
    assert load_study(tmp_path / "run" / "study.toml").study_id == summary["study_id"]


def test_a_model_scores_the_same_when_it_is_read_again(study_file, hospitals, tmp_path):
    plain = settings_of(
        study_file, hospitals, tmp_path / "run", "privacy.mechanism=none", "training.rounds=20"
    )
    simulate(plain, Silent())
    other = tmp_path / "other"
    other.mkdir()
    for seed, name in enumerate(("north", "south", "east")):
        write_hospital(other / f"{name}.csv", seed=100 + seed, name=f"new-{name}")
    result = evaluate_run(tmp_path / "run", other, cache=tmp_path / "cache")
    assert result["metrics"]["auroc"] > 0.85
    assert set(result["per_site"]) == {"north", "south", "east"}
    assert result["metrics"]["n"] == 180
    assert result == evaluate_run(tmp_path / "run", other, cache=tmp_path / "cache")


def trained_on(run, data, cache):
    """What an evaluation says of the run's own patients: the number, and the notes on it."""
    result = evaluate_run(run, data, cache=cache)
    return result["trained_on"], [note for note in result["notes"] if "trained on" in note]


@pytest.mark.parametrize("sites", [None, 5])
def test_patients_that_were_trained_on_are_recognised(study_file, hospitals, tmp_path, sites):
    """In the same folder, in a copy of it and in a part of it, however they were dealt."""
    run, cache = tmp_path / "run", tmp_path / "cache"
    settings = settings_of(study_file, hospitals, run, "privacy.mechanism=none", sites=sites)
    trained = sum(c["train"] for c in simulate(settings, Silent())["cohorts"].values())
    number, (note,) = trained_on(run, hospitals, cache)
    assert number == trained
    assert f"{trained} of the 180 examples" in note
    assert "no estimate" in note
    copy = shutil.copytree(hospitals, tmp_path / "copy", copy_function=shutil.copyfile)
    assert trained_on(run, copy, cache) == (trained, [note])
    (copy / "north.csv").unlink()
    assert 0 < trained_on(run, copy, cache)[0] < trained


def test_new_patients_are_no_patients_that_were_trained_on(study_file, hospitals, tmp_path):
    simulate(
        settings_of(study_file, hospitals, tmp_path / "run", "privacy.mechanism=none"), Silent()
    )
    other = tmp_path / "other"
    other.mkdir()
    write_hospital(other / "north.csv", seed=100, name="new")
    assert trained_on(tmp_path / "run", other, tmp_path / "cache") == (0, [])


def test_without_the_runs_cohorts_an_evaluation_says_that_it_cannot_tell(
    study_file, hospitals, tmp_path
):
    simulate(
        settings_of(study_file, hospitals, tmp_path / "run", "privacy.mechanism=none"), Silent()
    )
    copy = shutil.copytree(hospitals, tmp_path / "copy", copy_function=shutil.copyfile)
    number, (note,) = trained_on(tmp_path / "run", copy, tmp_path / "other cache")
    assert number is None
    assert "cannot be told" in note


def test_the_run_folder_names_no_patient(study_file, hospitals, tmp_path):
    simulate(
        settings_of(study_file, hospitals, tmp_path / "run", "privacy.mechanism=none"), Silent()
    )
    written = b"".join(f.read_bytes() for f in (tmp_path / "run").rglob("*") if f.is_file())
    for site in ("north", "south", "west"):
        for row in range(60):
            code = patient_code("small", f"{site}-{row}")
            for trace in (f"{site}-{row}".encode(), str(code).encode(), code.to_bytes(8, "little")):
                assert trace not in written


def test_the_fitted_constants_come_from_all_sites(study_file, hospitals, tmp_path):
    simulate(
        settings_of(study_file, hospitals, tmp_path / "run", "privacy.mechanism=none"), Silent()
    )
    constants = {k: v for k, v in arrays_of(tmp_path / "run").items() if k.startswith("preproc")}
    ages = np.concatenate([v.ravel() for v in constants.values()])
    assert np.isclose(ages, 60, atol=3).any(), "the mean age over all sites"


def test_sites_deals_the_patients_to_virtual_sites(study_file, hospitals, tmp_path):
    for partition in ("iid", "dirichlet"):
        settings = settings_of(
            *(study_file, hospitals, tmp_path / partition),
            *("privacy.mechanism=none", f"simulation.partition={partition}"),
            sites=5,
        )
        summary = simulate(settings, Silent())
        assert summary["sites"] == 5
        total = sum(c["train"] + c["validation"] for c in summary["cohorts"].values())
        assert total == 180


def test_fedprox_and_fedadam_run(study_file, hospitals, tmp_path):
    for number, overrides in enumerate(
        [
            ("training.strategy=fedprox", "training.proximal=0.1"),
            ("training.strategy=fedadam", "training.server-learning-rate=0.05"),
        ]
    ):
        settings = settings_of(study_file, hospitals, tmp_path / f"run{number}", *overrides)
        assert simulate(settings, Silent())["status"] == "complete"


def test_a_single_class_at_a_site_works_with_a_note(study_file, hospitals, tmp_path):
    west = hospitals / "west.csv"
    west.write_text(west.read_text().replace("absent", "present"))
    summary = simulate(settings_of(study_file, hospitals, tmp_path / "run"), Silent())
    assert summary["per_site"]["west"]["auroc"] is None
    assert any("class" in note for note in summary["cohorts"]["west"]["notes"])


def test_an_empty_site_is_left_out_with_a_note(study_file, hospitals, tmp_path):
    (hospitals / "east.csv").write_text("patient,age,pressure,sex,finding\n")
    summary = simulate(settings_of(study_file, hospitals, tmp_path / "run"), Silent())
    assert summary["sites"] == 3
    assert any("east" in note for note in summary["notes"])


def test_a_patient_in_two_sites_stops_before_anything_is_written(study_file, hospitals, tmp_path):
    south = hospitals / "south.csv"
    south.write_text(south.read_text().replace("south-3,", "north-3,"))
    with pytest.raises(CohortError, match="two") as caught:
        simulate(settings_of(study_file, hospitals, tmp_path / "run"), Silent())
    assert "north-3" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_missing_data_and_missing_sites_are_one_sentence(study_file, hospitals, tmp_path):
    with pytest.raises(RunError, match="--data"):
        simulate(settings_of(study_file, None, tmp_path / "run"), Silent())
    no_site = study_file.read_text().replace('site = { file = "(.+)[.]csv" }', "")
    study_file.write_text(no_site)
    with pytest.raises(StudyError, match="--sites N"):
        simulate(settings_of(study_file, hospitals, tmp_path / "run"), Silent())


def test_too_few_sites_are_refused_before_anything_is_written(study_file, hospitals, tmp_path):
    """At once, and not after the hour for which a server waits for real hospitals."""
    settings = settings_of(study_file, hospitals, tmp_path / "run", "aggregation.minimum-sites=4")
    with pytest.raises(NotEnoughSitesError, match="give 3 sites, the study needs 4"):
        simulate(settings, Silent())
    assert not (tmp_path / "run").exists()


def test_an_epsilon_out_of_reach_is_refused_before_anything_is_written(
    study_file, hospitals, tmp_path
):
    settings = settings_of(study_file, hospitals, tmp_path / "run", "privacy.epsilon=0.003")
    with pytest.raises(PrivacyError, match=r"raise privacy\.epsilon"):
        simulate(settings, Silent())
    assert not (tmp_path / "run").exists()


def test_a_failed_run_leaves_a_folder_that_says_why(study_file, hospitals, tmp_path):
    settings = settings_of(
        study_file, hospitals, tmp_path / "run",
        "privacy.mechanism=none", "training.learning-rate=1e30",
    )  # fmt: skip
    with pytest.raises(NotEnoughSitesError):
        simulate(settings, Silent())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "diverged" in summary["reason"]
    assert summary["rounds"] == 0


def test_a_run_without_a_prv_bound_is_summarised_all_the_same(study_file, hospitals, tmp_path):
    settings = settings_of(study_file, hospitals, tmp_path / "run", "privacy.delta=1e-11")
    spent = simulate(settings, Silent())["privacy"]["spent"]["north"]
    assert spent["prv"] is None
    assert spent["epsilon"] == spent["rdp"] > 0


def test_another_recipe_does_not_read_what_the_last_one_prepared(study_file, hospitals, tmp_path):
    for number, indicator in enumerate(("true", "false")):
        steps = (
            "preprocessing.steps=[{name='impute', indicator="
            + indicator
            + "}, {name='standardise'}, {name='one-hot'}]"
        )
        run = tmp_path / f"run{number}"
        summary = simulate(
            settings_of(study_file, hospitals, run, "privacy.mechanism=none", steps), Silent()
        )
        assert summary["dropped"] == []


def test_what_is_set_aside_is_said_with_virtual_sites_too(study_file, hospitals, tmp_path):
    north = hospitals / "north.csv"
    north.write_text(north.read_text().replace("north-7,", "north-7,nan", 1).replace("nan?", "nan"))
    settings = settings_of(
        study_file, hospitals, tmp_path / "run", "privacy.mechanism=none", sites=3
    )
    summary = simulate(settings, Silent())
    assert sum(n for why in summary["set_aside"].values() for n in why.values()) == 1
    assert any("set aside" in note for note in summary["notes"])
    simulate(
        settings_of(study_file, hospitals, tmp_path / "own", "privacy.mechanism=none"), Silent()
    )
    result = evaluate_run(tmp_path / "own", hospitals, cache=tmp_path / "cache")
    assert sum(n for why in result["set_aside"].values() for n in why.values()) == 1


def test_a_diverged_training_drops_the_sites_and_says_why(study_file, hospitals, tmp_path):
    settings = settings_of(
        study_file, hospitals, tmp_path / "run",
        "privacy.mechanism=none", "training.learning-rate=1e30",
    )  # fmt: skip
    watcher = Silent()
    with pytest.raises(NotEnoughSitesError, match="diverged"):
        simulate(settings, watcher)
    assert {site for _, site, _ in watcher.failures} == {"north", "south", "west"}


def test_an_interrupt_leaves_a_run_folder_that_says_so(study_file, hospitals, tmp_path):
    class Impatient(Silent):
        def closed(self, line, metrics_before, seconds):
            if line.round == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(settings_of(study_file, hospitals, tmp_path / "run"), Impatient())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert summary["rounds"] == 2
    assert summary["privacy"]["epsilon"]["north"] > 0, "what was spent is said even so"


def test_a_worker_that_is_killed_is_replaced_and_the_run_goes_on(study_file, hospitals, tmp_path):
    class Killer(Silent):
        def closed(self, line, metrics_before, seconds):
            super().closed(line, metrics_before, seconds)
            if line.round == 1:
                multiprocessing.active_children()[0].kill()

    watcher = Killer()
    settings = settings_of(
        study_file, hospitals, tmp_path / "run", "privacy.mechanism=none", backend="process"
    )
    summary = simulate(settings, watcher)
    assert summary["status"] == "complete"
    # The kill is noticed before or while a site is served; at most that one site is missing.
    assert sum(len(line.dropped) for line in watcher.closed_rounds) <= 1
    assert all("signal 9" in drop["why"] for drop in summary["dropped"])


class TestLedgers:
    def test_they_go_on_from_run_to_run_where_the_sites_have_homes(
        self, study_file, hospitals, tmp_path
    ):
        policy = Policy.of(epsilon=9.0, delta=1e-5)
        keys = {"homes": tmp_path / "homes", "policy": policy}
        simulate(settings_of(study_file, hospitals, tmp_path / "one", **keys), Silent())
        with pytest.raises(BudgetError, match="allows epsilon 9 "):
            simulate(settings_of(study_file, hospitals, tmp_path / "two", **keys), Silent())
        assert not (tmp_path / "two").exists(), "refused before anything is written"
        small = settings_of(study_file, hospitals, tmp_path / "two", "privacy.epsilon=1", **keys)
        summary = simulate(small, Silent())
        for book in summary["privacy"]["ledger"].values():
            assert 7.9 < book["spent"] < 9.0
        assert all(e <= 1.0 for e in summary["privacy"]["epsilon"].values())

    def test_a_policy_that_allows_less_refuses_the_study_before_the_first_round(
        self, study_file, hospitals, tmp_path
    ):
        policy = Policy.of(epsilon=2.0, delta=1e-5)
        with pytest.raises(BudgetError, match="allows epsilon 2 "):
            simulate(settings_of(study_file, hospitals, tmp_path / "run", policy=policy), Silent())
        assert not (tmp_path / "run").exists()

    def test_a_ledger_that_was_put_back_is_refused(self, study_file, hospitals, tmp_path):
        keys = {"homes": tmp_path / "homes", "policy": Policy.of(epsilon=30.0, delta=1e-5)}
        simulate(settings_of(study_file, hospitals, tmp_path / "one", **keys), Silent())
        ledger = next((tmp_path / "homes").rglob("ledger.db"))
        old = ledger.read_bytes()
        simulate(settings_of(study_file, hospitals, tmp_path / "two", **keys), Silent())
        for beside in ledger.parent.glob("ledger.db-*"):
            beside.unlink()
        ledger.write_bytes(old)
        with pytest.raises(LedgerError):
            simulate(settings_of(study_file, hospitals, tmp_path / "three", **keys), Silent())

    def test_homes_are_of_the_data_and_sites_that_they_were_made_for(
        self, study_file, hospitals, tmp_path
    ):
        keys = {"homes": tmp_path / "homes", "policy": Policy.of(epsilon=30.0, delta=1e-5)}
        simulate(settings_of(study_file, hospitals, tmp_path / "one", **keys), Silent())
        shutil.copytree(hospitals, tmp_path / "copy")
        for data, sites in ((tmp_path / "copy", None), (hospitals, 4)):
            other = settings_of(study_file, data, tmp_path / "two", sites=sites, **keys)
            with pytest.raises(RunError, match="other data or of other sites"):
                simulate(other, Silent())

    def test_a_run_of_the_same_name_is_refused_before_it_begins(
        self, study_file, hospitals, tmp_path
    ):
        keys = {"homes": tmp_path / "homes", "policy": Policy.of(epsilon=30.0, delta=1e-5)}
        simulate(settings_of(study_file, hospitals, tmp_path / "a" / "one", **keys), Silent())
        again = settings_of(study_file, hospitals, tmp_path / "b" / "one", **keys)
        with pytest.raises(RunError, match="name another run folder"):
            simulate(again, Silent())

    def test_injected_noise_is_not_booked_in_an_account_that_goes_on(
        self, study_file, hospitals, tmp_path
    ):
        keys = {"homes": tmp_path / "homes", "noise_seed": 3}
        with pytest.raises(RunError, match="protects nobody"):
            simulate(settings_of(study_file, hospitals, tmp_path / "run", **keys), Silent())
        assert not (tmp_path / "homes").exists()

    def test_a_run_without_privacy_has_none(self, study_file, hospitals, tmp_path):
        off = settings_of(study_file, hospitals, tmp_path / "run", "privacy.mechanism=none")
        summary = simulate(off, Silent())
        assert not list((tmp_path / "run").rglob("ledger*"))
        assert "WITHOUT differential privacy" in str(summary["privacy"]["disclosures"])


def test_fewer_rounds_than_are_averaged_average_all(study_file, hospitals, tmp_path):
    overrides = ("privacy.mechanism=none", "training.average-last=5")
    settings = settings_of(study_file, hospitals, tmp_path / "run", *overrides, "training.rounds=2")
    summary = simulate(settings, Silent())
    assert (summary["status"], summary["rounds"]) == ("complete", 2)


def test_without_a_patient_column_nobody_is_said_to_be_new(study_file, hospitals, tmp_path):
    text = study_file.read_text(encoding="utf-8")
    study_file.write_text(
        "".join(line for line in text.splitlines(True) if not line.startswith("patient")),
        encoding="utf-8",
    )
    run, other = tmp_path / "run", tmp_path / "other"
    simulate(settings_of(study_file, hospitals, run, "privacy.mechanism=none"), Silent())
    other.mkdir()
    write_hospital(other / "north.csv", seed=100, name="new")
    number, (note,) = trained_on(run, other, tmp_path / "cache")
    assert number is None
    assert "cannot be told" in note
