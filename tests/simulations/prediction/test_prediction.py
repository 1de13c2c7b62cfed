"""A prediction is what `evaluate` measures: the same reading, the same numbers, to the last bit."""

import json
from pathlib import Path

import numpy as np
import pytest
from predictions import predicted, require_same
from trained import (
    ARRAYS,
    BEATS,
    IMAGES,
    RECORDS,
    TAIL,
    trained,
    write_beats,
    write_images,
    write_records,
)
from typer.testing import CliRunner

from wardround_server.run_folder import MODEL
from wardround_shared.errors import RunFolderError
from wardround_simulations import cli, options
from wardround_simulations.evaluation import open_run
from wardround_simulations.prediction.prediction import Failure, predict_inputs
from wardround_simulations.virtual_sites import phantom_folder


def ask(*arguments):
    return CliRunner().invoke(cli.app, ["predict", *map(str, arguments)], catch_exceptions=False)


class TestTable:
    @pytest.fixture
    def run(self, study_file, hospitals, tmp_path):
        return trained(study_file.read_text(), hospitals, tmp_path, "privacy.mechanism=none")

    def test_rows_are_predicted_as_evaluate_does(self, run, hospitals, tmp_path):
        for site in ("north", "south"):
            table = hospitals / f"{site}.csv"
            labels = [line.endswith("present") for line in table.read_text().splitlines()[1:]]
            values = predicted(run, [table])
            targets = np.array(labels, dtype=np.int64)
            require_same(run, hospitals, tmp_path / "cache", site, values, targets)

    def test_columns_may_stand_in_any_order_and_a_label_need_not_be_there(self, run, tmp_path):
        one, other = tmp_path / "one.csv", tmp_path / "other.csv"
        one.write_text("age,pressure,sex\n61,140,m\n?,120,f\n")
        other.write_text("sex,note,pressure,age\nm,x,140,61.0\nf,y,120,\n")
        assert np.array_equal(predicted(run, [one]), predicted(run, [other]))

    def test_a_table_without_rows_is_a_failure_and_not_silence(self, run, tmp_path):
        empty = tmp_path / "empty.csv"
        empty.write_text("age,pressure,sex\n")
        result = ask(run, empty)
        assert result.exit_code == 1
        assert "there is no example in it" in result.stderr

    def test_many_inputs_in_several_batches_keep_their_order(self, run, tmp_path):
        rows = [
            f"{40 + number % 50},{100 + number % 70},{'fm'[number % 2]}" for number in range(300)
        ]
        table, single = tmp_path / "many.csv", tmp_path / "single.csv"
        table.write_text("age,pressure,sex\n" + "\n".join(rows))
        values = predicted(run, [table])
        for number in (0, 127, 128, 299):
            single.write_text(f"age,pressure,sex\n{rows[number]}\n")
            assert np.allclose(predicted(run, [single])[0], values[number], atol=1e-7)

    def test_what_cannot_be_used_is_told_and_the_rest_is_predicted(self, run, tmp_path):
        table, lacking = tmp_path / "new.csv", tmp_path / "lacking.csv"
        table.write_text("age,pressure,sex\n61,140,x\n61,140,m\n61,high,m\n61,140\n")
        lacking.write_text("age,sex\n61,m\n")
        (tmp_path / "x.png").write_bytes(b"")
        out = tmp_path / "out.csv"
        done = ask(run, table, lacking, tmp_path / "x.png", tmp_path / "no.csv", "--out", out)
        assert done.exit_code == 1
        assert done.stderr.splitlines() == [
            f"error: {table}:5: the row has too few or too many cells.",
            f"error: {table}:2: column sex holds none of its categories.",
            f"error: {table}:4: column pressure holds no finite number.",
            f"error: {lacking}: there is no column 'pressure'; the columns are age, sex.",
            f"error: {tmp_path}/x.png: this is a PNG or JPEG image, and the model takes a table.",
            f"error: {tmp_path / 'no.csv'}: the file is not there.",
        ]
        lines = out.read_text().splitlines()
        assert len(lines) == 2
        assert lines[1].startswith(f"{table}:3,")
        assert "NONE" in lines[1]

    def test_nothing_is_written_when_nothing_is_predicted_or_the_file_is_there(self, run, tmp_path):
        out = tmp_path / "out.csv"
        assert ask(run, tmp_path / "no.csv", "--out", out).exit_code == 1
        assert not out.exists()
        out.write_text("kept")
        done = ask(run, tmp_path / "no.csv", "--out", out)
        assert "exists already" in done.stderr
        assert out.read_text() == "kept"

    def test_json_has_both_probabilities_the_card_and_that_nothing_is_private(self, run, hospitals):
        done = ask(run, hospitals / "north.csv", "--json")
        answer = json.loads(done.stdout)
        assert done.exit_code == 0
        assert Path(answer["model_card"]).name == "model-card.md"
        assert Path(answer["model_card"]).is_file()
        first = answer["predictions"][0]
        assert sum(first["model"].values()) == pytest.approx(1.0)
        assert "NONE" in first["not_private"]
        assert first["answer"] == max(first["model"], key=first["model"].get)
        if first["calibrated"] is None:
            assert answer["calibration"].startswith("none: too few")
        else:
            assert sum(first["calibrated"].values()) == pytest.approx(1.0)

    def test_an_input_far_from_the_training_data_is_told(self, run, tmp_path):
        table = tmp_path / "new.csv"
        table.write_text("age,pressure,sex\n61,140,m\n61,1400,m\n,,\n")
        near, far, empty = predict_inputs(open_run(run), [table])
        assert near.warnings == ()
        assert len(far.warnings) == 1
        assert far.warnings[0].startswith("pressure is ")
        assert empty.warnings == ("100% of the columns are missing",)

    def test_a_damaged_model_or_another_release_is_one_sentence(self, run, hospitals, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr("wardround_simulations.evaluation.__version__", "9.1.0")
            done = ask(run, hospitals / "north.csv")
            assert done.exit_code == 1
            assert "written by wardround 0" in done.stderr
            assert done.stderr.count("\n") == 1
        model = run / MODEL
        model.write_bytes(model.read_bytes()[:-5])
        done = ask(run, hospitals / "north.csv")
        assert done.exit_code == 1
        assert "the model file is damaged" in done.stderr
        assert done.stderr.count("\n") == 1

    def test_a_model_with_other_arrays_is_refused(self, run):
        from wardround_server.run_folder import RunFolder, read_model

        arrays, metadata = read_model(run)
        del arrays[next(name for name in arrays if not name.startswith("preprocessing"))]
        RunFolder(run).write_arrays(MODEL, arrays, metadata)
        with pytest.raises(RunFolderError, match="does not fit the network"):
            open_run(run)


class TestSurvival:
    STUDY = """
[study]
name = "small-survival"
task = "tabular-survival"
[data]
source = "table"
table = ["*.csv"]
site = { file = "(.+)[.]csv" }
survival = { time = "days", event = "dead", horizon = 100.0, intervals = 4 }
features = [{ column = "age" }]
[preprocessing]
steps = [{ name = "standardise" }]
[model]
name = "mlp"
hidden = []
"""

    def test_survival_falls_with_time_and_is_what_the_hazards_say(self, tmp_path):
        data = tmp_path / "data"
        data.mkdir()
        rng = np.random.default_rng(0)
        for site in ("north", "south"):
            rows = [
                f"{rng.normal(60, 9):.0f},{rng.exponential(60):.1f},{number % 2}"
                for number in range(30)
            ]
            (data / f"{site}.csv").write_text("age,days,dead\n" + "\n".join(rows))
        run = trained(self.STUDY + TAIL, data, tmp_path)
        new = tmp_path / "new.csv"
        new.write_text("age\n40\n80\n")
        done = ask(run, new, "--json")
        assert done.exit_code == 0, done.stderr
        for one in json.loads(done.stdout)["predictions"]:
            _, *curve = one["model"].values()
            assert sorted(curve, reverse=True) == curve
            assert 0 < curve[-1] < curve[0] < 1
            assert one["answer"] is one["calibrated"] is None
        values = predicted(run, [new])
        by_hand = np.exp(-np.cumsum(np.exp(values[:, :1] + values[:, 1:]) / 4, axis=1))
        found = [[*one["model"].values()][1:] for one in json.loads(done.stdout)["predictions"]]
        assert np.allclose(found, by_hand)


class TestImages:
    @pytest.fixture
    def files(self, tmp_path):
        folder = tmp_path / "images"
        folder.mkdir()
        return write_images(folder)

    def test_files_are_predicted_as_evaluate_does(self, files, tmp_path):
        folder = files[0][0].parent
        run = trained(IMAGES + TAIL, folder, tmp_path)
        mine = files[::2]
        values = predicted(run, [path for path, _ in mine])
        targets = [label for _, label in mine]
        require_same(run, folder, tmp_path / "cache", "north", values, targets)

    def test_wrong_images_are_one_sentence_each(self, files, tmp_path):
        from PIL import Image

        run = trained(IMAGES + TAIL, files[0][0].parent, tmp_path)
        large, blank, torn = (tmp_path / f"{name}.png" for name in ("large", "blank", "torn"))
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(large)
        Image.fromarray(np.full((12, 12), 60, np.uint8)).save(blank)
        torn.write_bytes(files[0][0].read_bytes()[:60])
        failed = {}
        for one in predict_inputs(open_run(run), [large, torn, tmp_path, blank]):
            if isinstance(one, Failure):
                failed[one.path] = one.why
            else:
                assert one.input == str(blank)
                assert one.warnings == ("the image has next to no contrast",)
        assert failed[large].startswith("it is 1 x 20 x 30 after the study's record steps")
        assert "the model takes 1 x 12 x 12" in failed[large]
        assert "damaged" in failed[torn]
        assert failed[tmp_path] == "this is a folder; name the files in it"

    def test_arrays_are_predicted_as_evaluate_does_with_or_without_labels(self, tmp_path):
        folder = tmp_path / "arrays"
        folder.mkdir()
        rng = np.random.default_rng(5)
        images = rng.integers(0, 255, (24, 12, 12)).astype(np.uint8)
        labels = np.array(["absent", "present"] * 12)
        site = np.array(["north"] * 12 + ["south"] * 12)
        np.savez(folder / "a.npz", images=images, labels=labels, site=site)
        run = trained(ARRAYS + TAIL, folder, tmp_path)
        bare = tmp_path / "bare.npz"
        np.savez(bare, images=images[:12])
        values = predicted(run, [bare])
        targets = [0, 1] * 6
        require_same(run, folder, tmp_path / "cache", "north", values, targets)


class TestSignals:
    def test_beats_are_compared_with_their_patient_as_in_training(self, tmp_path):
        data = tmp_path / "data"
        data.mkdir()
        labels = write_beats(data)
        run = trained(BEATS + TAIL, data, tmp_path)
        values = predicted(run, [data / "beats.npz"])
        half = len(labels) // 2
        for site, part in (("north", slice(0, half)), ("south", slice(half, None))):
            cache = tmp_path / "cache"
            require_same(run, data, cache, site, values[part], labels[part], tolerance=1e-7)

    @pytest.fixture
    def records(self, tmp_path):
        data = tmp_path / "data"
        data.mkdir()
        return write_records(data)

    def test_records_are_predicted_as_evaluate_does(self, records, tmp_path):
        data = tmp_path / "data"
        run = trained(RECORDS + TAIL, data, tmp_path)
        mine = records[::2]
        values = predicted(run, [path for path, _ in mine], columns=data / "records.csv")
        targets = np.array([findings for _, findings in mine], dtype=np.uint8)
        require_same(run, data, tmp_path / "cache", "north", values, targets)

    def test_wrong_records_are_one_sentence_each(self, records, tmp_path):
        data = tmp_path / "data"
        run = trained(RECORDS + TAIL, data, tmp_path)
        header = data / "records" / "r2.hea"
        header.write_text(header.read_text().replace(" V1", " V9"))
        other = tmp_path / "other"
        other.mkdir()
        write_records(other, each=1, length=50)
        short = other / "records" / "r0.hea"
        stranger = data / "records" / "stranger"
        table = data / "records.csv"
        paths = [data / "records" / "r2", short, stranger]
        why = [one.why for one in predict_inputs(open_run(run), paths, columns=table)]
        assert why == [
            "the record lacks a lead that the study names",
            "the signal is too short: 50 samples, and crop needs 120",
            "no rows of records.csv are of this record",
        ]
        (lacking,) = predict_inputs(open_run(run), [records[0][0]])
        assert "the model takes age beside the signal" in lacking.why
        assert "--columns" in lacking.why


def test_a_dicom_file_is_read_with_the_windows_and_frames_of_the_study(tmp_path, monkeypatch):
    from wardround_client.sources import inputs
    from wardround_client.sources.records import Reading
    from wardround_shared.study import load_study

    asked = []

    def read(path, **options):
        asked.append(options)
        return [Reading(main=np.zeros((8, 8)), part=f"#{number}") for number in (1, 2)]

    monkeypatch.setattr(inputs, "read_dicom", read)
    (tmp_path / "x.dcm").touch()
    study = load_study(options.find_study("ct-contrast"), ["data.voi=true"])
    found = [*inputs.read_inputs(study, tmp_path / "x.dcm")]
    assert [one.key for one in found] == [f"{tmp_path}/x.dcm#1", f"{tmp_path}/x.dcm#2"]
    assert asked == [{"voi": True, "frames": study.data.frames}]


def test_dicom_files_are_predicted_as_evaluate_does(tmp_path):
    study = options.find_study("phantom").read_text()
    changes = (
        "privacy.mechanism=none",
        "data.patients-per-site=10",
        "training.rounds=1",
        "training.local-epochs=1",
        "aggregation.secure=false",
    )
    run = trained(study, None, tmp_path, *changes)
    folder = phantom_folder(open_run(run).study.data, cache=tmp_path / "cache", seed=4)
    lines = [line.split(",") for line in (folder / "labels.csv").read_text().splitlines()]
    head, rows = lines[0], [line for line in lines[1:] if "site-2" in line]
    files = [folder / row[head.index("file")] for row in rows]
    targets = [int(row[head.index("finding")] == "present") for row in rows]
    values = predicted(run, files)
    require_same(run, folder, tmp_path / "cache", "site-2", values, targets)
