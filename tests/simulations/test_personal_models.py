"""Sites with a model of their own, in a federation of phantoms."""

from pathlib import Path

import numpy as np
import pytest
import torch
from federations import Silent, arrays_of, settings_of
from safetensors.numpy import load_file

from wardround_client.prepared import prepare
from wardround_client.training import Examples, evaluate
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import load_study
from wardround_shared.tasks import task_of
from wardround_simulations.closing import closing_lines
from wardround_simulations.comparison.compare import _measured
from wardround_simulations.comparison.ways import Way, at_one_place
from wardround_simulations.evaluation import open_own, open_run
from wardround_simulations.federation import simulate
from wardround_simulations.options import find_study
from wardround_simulations.virtual_sites import read_cohorts

OWN_LAYERS = 'personal.layers="normalisation"'
FINE_TUNED = "personal.fine-tune-epochs=3"
DITTO = "personal.ditto=0.5"
PLAIN_STEPS = ("training.momentum=0", "training.local-steps=4")
PLAIN = "privacy.mechanism=none"
SMALL = (
    "data.sites=4",
    "data.patients-per-site=20",
    "data.size=32",
    'preprocessing.steps=[{ name = "resize", size = [16, 16] }, { name = "standardise" }]',
    "model.width=4",
    "model.dense=4",
    "training.rounds=2",
    "training.local-epochs=1",
    "training.batch-size=8",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("personal")


def setting(cache: Path, out: Path, *overrides: str, **keys):
    keys = {"seed": 3, "cache": cache} | keys
    return settings_of(find_study("phantom"), None, out, *SMALL, *overrides, **keys)


def run(cache: Path, out: Path, *overrides: str, **keys):
    return simulate(setting(cache, out, *overrides, **keys), Silent())


def own_models(out: Path) -> dict[str, dict[str, np.ndarray]]:
    return {
        file.parent.parent.name: load_file(file)
        for file in sorted(out.glob("sites/*/personal/model.safetensors"))
    }


def norms_of(arrays) -> dict[str, np.ndarray]:
    """Scale and shift of the group norms of `cnn`: the vectors that follow a convolution."""
    names = {name.rpartition(".")[0] for name, array in arrays.items() if array.ndim == 4}
    return {
        name: array
        for name, array in arrays.items()
        if name.startswith("features.") and name.rpartition(".")[0] not in names
    }


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "scaffold"])
@pytest.mark.parametrize("mechanism", ["none", "dp-sgd"])
def test_own_layers_leave_the_shared_model_as_it_began(cache, tmp_path, mechanism, strategy):
    """Under masks too, where zeros are rounded by chance as all values are."""
    summary = run(
        *(cache, tmp_path / "run", OWN_LAYERS, f"privacy.mechanism={mechanism}"),
        *(f"training.strategy={strategy}", "training.server-learning-rate=0.5"),
        *(PLAIN_STEPS if strategy == "scaffold" else ()),
    )
    shared = norms_of(arrays_of(tmp_path / "run"))
    assert len(shared) == 6
    for name, array in shared.items():
        np.testing.assert_array_equal(array, np.float32(name.endswith("weight")))
    own = own_models(tmp_path / "run")
    assert len(own) == 4
    for arrays in own.values():
        assert all(np.any(arrays[name] != shared[name]) for name in shared)
        for name, array in arrays_of(tmp_path / "run").items():
            if name not in shared:
                np.testing.assert_array_equal(arrays[name], array)
    assert summary["secure_aggregation"]
    assert summary["personal"]["own"]["per_site"] == summary["per_site"]
    measured = {key: summary["metrics"][key] for key in ("n", "accuracy", "auroc")}
    assert summary["personal"]["own"]["metrics"].items() >= measured.items()


def test_own_layers_cost_no_privacy_of_their_own(cache, tmp_path):
    spent = [
        run(cache, tmp_path / str(place), *overrides, noise_seed=1)["privacy"]["spent"]
        for place, overrides in enumerate([(), (OWN_LAYERS,)])
    ]
    assert spent[0] == spent[1]


def test_own_models_are_the_same_over_processes(cache, tmp_path):
    for backend in ("inline", "process"):
        run(cache, tmp_path / backend, PLAIN, OWN_LAYERS, backend=backend)
    one, other = own_models(tmp_path / "inline"), own_models(tmp_path / "process")
    assert one.keys() == other.keys()
    for site, arrays in one.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, other[site][name])


def test_a_run_without_own_layers_has_nothing_of_it(cache, tmp_path):
    assert run(cache, tmp_path / "run", PLAIN)["personal"] == {}
    assert not own_models(tmp_path / "run")


@pytest.mark.parametrize("personal", [OWN_LAYERS, DITTO])
def test_a_hospitals_own_model_is_read_like_a_runs(cache, tmp_path, personal):
    """And gives the figures that the run has for this hospital."""
    summary = run(cache, tmp_path / "run", PLAIN, personal)
    cohorts = read_cohorts(setting(cache, tmp_path / "run", PLAIN, personal)).cohorts
    for cohort in cohorts:
        for key, opened in (
            ("shared", open_run(tmp_path / "run")),
            ("own", open_own(tmp_path / "run", cohort.folder.name)),
        ):
            expected = summary["personal"][key]["per_site"][cohort.site]
            assert _validated(opened, cohort) == expected


@pytest.mark.parametrize("personal", [FINE_TUNED, DITTO])
def test_a_comparison_measures_each_site_under_its_own_model(cache, tmp_path, personal):
    study = load_study(find_study("phantom"), [*SMALL, PLAIN, personal])
    own = run(cache, tmp_path / "run", PLAIN, personal)["personal"]["own"]
    scored = read_cohorts(setting(cache, tmp_path / "run", PLAIN, personal))
    way = Way(key="federated", kind="federated", title="", study=study, folder="run")
    found, task = _measured(way, tmp_path / "run", scored), task_of(study)
    for site, metrics in own["per_site"].items():
        counts = found[site].summed(np.ones(found[site].patients, np.int64))
        assert task.metrics(counts) == pytest.approx(metrics)
    assert not at_one_place(study).personal.any


@pytest.mark.parametrize("layers", ["none", "normalisation"])
def test_fine_tuning_leaves_the_run_as_it_was(cache, tmp_path, layers):
    own_layers = f"personal.layers={layers}"
    before = run(cache, tmp_path / "before", PLAIN, own_layers)
    after = run(cache, tmp_path / "after", PLAIN, own_layers, FINE_TUNED)
    for name, array in arrays_of(tmp_path / "before").items():
        np.testing.assert_array_equal(array, arrays_of(tmp_path / "after")[name])
    assert after["metrics"] == before["metrics"]
    assert after["per_site"] == before["per_site"]
    assert after["personal"]["own"]["per_site"] != after["per_site"]
    lines = [line for line in closing_lines(after) if "by its own" in line]
    assert len(lines) == 1 + len(after["per_site"])


def test_with_fine_tuning_the_whole_costs_the_studys_epsilon(cache, tmp_path):
    summary = run(cache, tmp_path / "run", FINE_TUNED)
    assert all(7.5 < e <= 8.0 for e in summary["privacy"]["epsilon"].values())
    steps = {site: spent["steps"] for site, spent in summary["privacy"]["spent"].items()}
    without = run(cache, tmp_path / "without")["privacy"]["spent"]
    # two rounds of an epoch, and three epochs
    assert steps == {site: spent["steps"] // 2 * 5 for site, spent in without.items()}


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
def test_a_model_beside_the_shared_one_leaves_the_run_as_it_was(cache, tmp_path, strategy):
    others = [f"training.strategy={strategy}", f"training.proximal={0.1 * (strategy != 'fedavg')}"]
    before = run(cache, tmp_path / "before", PLAIN, *others)
    after = run(cache, tmp_path / "after", PLAIN, *others, DITTO)
    shared, own = arrays_of(tmp_path / "after"), own_models(tmp_path / "after")
    for name, array in arrays_of(tmp_path / "before").items():
        np.testing.assert_array_equal(array, shared[name])
    assert after["metrics"] == before["metrics"]
    assert after["per_site"] == before["per_site"]
    assert len(own) == 4
    for arrays in own.values():
        assert any(np.any(arrays[name] != shared[name]) for name in shared)
    assert after["personal"]["ditto"] == 0.5
    assert after["personal"]["own"]["per_site"] != after["per_site"]


def test_the_pull_draws_the_own_models_together(cache, tmp_path):
    """Without it they are those of sites that train alone; at its largest they are hardly own."""

    def spread(share):
        run(cache, tmp_path / str(share), PLAIN, f"personal.ditto={share}")
        of_sites = [
            np.concatenate([array.ravel() for name, array in sorted(arrays.items())])
            for arrays in own_models(tmp_path / str(share)).values()
        ]
        return float(np.std(of_sites, axis=0).mean())

    assert spread(20) < 0.5 * spread(0)


def test_with_a_model_beside_it_the_whole_costs_the_studys_epsilon(cache, tmp_path):
    summary = run(cache, tmp_path / "run", DITTO)
    assert all(7.5 < e <= 8.0 for e in summary["privacy"]["epsilon"].values())
    steps = {site: spent["steps"] for site, spent in summary["privacy"]["spent"].items()}
    without = run(cache, tmp_path / "without")["privacy"]["spent"]
    assert steps == {site: 2 * spent["steps"] for site, spent in without.items()}


def _validated(opened, cohort):
    examples = Examples(
        parts=tuple(map(torch.from_numpy, prepare(cohort, Recipe(opened.study), opened.fitted))),
        targets=torch.from_numpy(cohort.targets),
        patients=torch.from_numpy(cohort.patients),
    )
    task = task_of(opened.study)
    index = torch.from_numpy(cohort.validation)
    return task.metrics(evaluate(opened.module, examples, index, task))
