"""A federation that learns to make images: what crosses the wire, what is kept, what is said."""

import json

import numpy as np
import pytest
from federations import Silent, arrays_of, settings_of
from PIL import Image

from wardround_shared.errors import StudyError, UnsupportedError
from wardround_shared.study import disclosures, load_study
from wardround_simulations.comparison.compare import CompareSettings, compare
from wardround_simulations.comparison.ways import studies_of
from wardround_simulations.exporting.export import export_model
from wardround_simulations.federation import simulate
from wardround_simulations.report import write_report
from wardround_simulations.tuning.tune import TuneSettings, tune


def test_a_run_leaves_both_networks_and_distances_by_site(trained):
    summary = json.loads((trained / "summary.json").read_text())
    names = arrays_of(trained)
    assert {name.split(".")[1] for name in names} == {"discriminator", "generator"}
    assert summary["metrics"]["frechet"] > 0
    assert 0 <= summary["metrics"]["told_apart"] <= 1
    assert set(summary["per_site"]) == {"north", "south", "west"}
    card = (trained / "model-card.md").read_text()
    assert "frechet" in card.lower()
    assert "may be copies" in card
    lines = [json.loads(line) for line in (trained / "rounds.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert lines[0]["metrics"]["frechet"] != lines[1]["metrics"]["frechet"]


def test_the_report_shows_the_picture_and_no_page_is_asked(trained):
    page = write_report(trained).read_text()
    assert 'src="data:image/png;base64,' in page
    assert "WITHOUT differential privacy: an image may be a copy" in page
    assert "img-src data:" in page
    assert page.count("<img") == 1
    picture = np.asarray(Image.open(trained / "samples.png").convert("L"))
    assert picture.std() > 5


def test_sites_send_nothing_of_the_generator(bars, tmp_path, monkeypatch):
    """What it learns comes from the server; a site's update is zero there."""
    from wardround_client import site

    sent = []
    formed = site._update

    def spied(masking, delta, *rest):
        sent.append(delta.copy())
        return formed(masking, delta, *rest)

    monkeypatch.setattr(site, "_update", spied)
    simulate(settings_of(bars / "bars.toml", bars, tmp_path / "run"), Silent())
    arrays = arrays_of(tmp_path / "run")
    own = sum(array.size for name, array in arrays.items() if ".discriminator." in name)
    assert len(sent) == 6
    for delta in sent:
        assert np.abs(delta[:own]).max() > 0
        assert not delta[own:].any()


@pytest.mark.parametrize("private", ["none", "dp-sgd"])
def test_masked_sums_give_the_model_of_sums_in_the_clear(bars, tmp_path, private):
    models = {}
    for secure in ("true", "false"):
        out = tmp_path / secure
        overrides = (f"aggregation.secure={secure}", f"privacy.mechanism={private}")
        summary = simulate(
            settings_of(bars / "bars.toml", bars, out, *overrides, noise_seed=5), Silent()
        )
        models[secure] = arrays_of(out)
        assert summary["metrics"]["n"] > 0
    for name, array in models["true"].items():
        # The generator's Adam divides by gradients, and makes more of rounding than a sum does.
        assert np.allclose(array, models["false"][name], atol=2e-3), name


def test_the_same_seed_makes_the_same_model_on_every_backend(bars, tmp_path, trained):
    out = tmp_path / "process"
    simulate(settings_of(bars / "bars.toml", bars, out, backend="process"), Silent())
    assert all(
        np.array_equal(array, arrays_of(trained)[name]) for name, array in arrays_of(out).items()
    )


def test_a_hospital_is_told_that_features_are_summed(bars):
    told = [one.what for one in disclosures(load_study(bars / "bars.toml"))]
    assert any("products of two features" in what for what in told)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ('model={name="cnn"}', 'made by "dcgan"'),
        ('preprocessing.steps=[{name="standardise"}]', "no longer from 0 to 1"),
        ('preprocessing.steps=[{name="histogram", low=0, high=1, bins=8}]', "no pixels"),
        ("personal.fine-tune-epochs=1", "trained at the server"),
        ("training.class-weights=balanced", "single class"),
        ('study.task="image-classification"', 'made by "dcgan"'),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(bars, override, said):
    from wardround_shared.preprocessing import Recipe

    with pytest.raises((StudyError, UnsupportedError), match=said) as refused:
        Recipe(load_study(bars / "bars.toml", [override]))
    assert "\n" not in str(refused.value)


def test_settings_of_a_generator_belong_to_no_other_task(bars, tmp_path):
    text = (bars / "bars.toml").read_text()
    other = tmp_path / "other.toml"
    other.write_text(text.replace("image-generation", "image-classification"))
    with pytest.raises(StudyError, match=r"training.generator: .* has no effect"):
        load_study(other, ['model={name="cnn"}'])


def test_what_goes_by_patient_or_by_one_network_is_refused(bars, trained, tmp_path):
    settings = settings_of(bars / "bars.toml", bars, tmp_path / "out")
    file = bars / "bars.toml"
    with pytest.raises(UnsupportedError, match="--compare"):
        compare(CompareSettings(studies=studies_of(file, []), settings=settings), None)
    with pytest.raises(UnsupportedError, match="tune"):
        tune(
            TuneSettings(
                file=file,
                overrides=(),
                settings=settings,
                space=None,
                trials=2,
                folds=2,
                halving=False,
            ),
            None,
        )
    with pytest.raises(UnsupportedError, match="torch-export"):
        export_model(trained, "torch-export", tmp_path / "m", data=None, cache=tmp_path)
    done = export_model(
        trained, "safetensors", tmp_path / "m.safetensors", data=None, cache=tmp_path
    )
    assert done.difference.largest == 0
    assert not (tmp_path / "out").exists()
