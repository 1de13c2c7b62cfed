"""`wardround-site data deidentify` as typed: folders in and out, permissions, key, table."""

import csv
import json
import os
import stat
from datetime import date, timedelta

import pydicom
import pytest
from dicom_images import content, image
from typer.testing import CliRunner

from wardround_client import durable
from wardround_client.cli import app
from wardround_client.enrolment.home import SiteHome
from wardround_shared.audit_log import verify


@pytest.fixture
def home(tmp_path):
    return SiteHome.init(tmp_path / "north", "north")


@pytest.fixture
def images(tmp_path):
    """Two patients, three images, in folders named after them."""
    folder = tmp_path / "in"
    for number, patient in enumerate(("4711", "4711", "4712")):
        below = folder / f"Quist^{patient}"
        below.mkdir(parents=True, exist_ok=True)
        ds = image(
            PatientID=patient, SOPInstanceUID=f"1.2.3.1{number}", StudyDate=f"2024022{number}"
        )
        (below / f"{number}.dcm").write_bytes(content(ds))
    return folder


def ask(*arguments):
    return CliRunner().invoke(app, ["data", "deidentify", *map(str, arguments)])


def counts(*arguments):
    result = ask(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_patient_stays_one_patient_with_dates_as_far_apart_as_before(tmp_path, images, home):
    content = counts(images, tmp_path / "out", "--home", home.folder)
    assert (content["written"], content["patients"]) == (3, 2)
    written = [pydicom.dcmread(path) for path in below(tmp_path / "out")]
    days = {}
    for ds in written:
        days.setdefault(ds.PatientID, []).append(date.fromisoformat(ds.StudyDate))
    assert sorted(len(dates) for dates in days.values()) == [1, 2]
    one, other = next(sorted(dates) for dates in days.values() if len(dates) == 2)
    assert other - one == timedelta(days=1)
    assert len({ds.StudyInstanceUID for ds in written}) == 1
    assert len({ds.SOPInstanceUID for ds in written}) == 3


def test_everything_is_for_the_user_alone(tmp_path, images, home):
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    ask(images, tmp_path / "out", "--home", home.folder, "--table")
    for folder in (tmp_path / "out", home.deidentification):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in folder.rglob("*"):
            expected = 0o700 if path.is_dir() else 0o600
            assert stat.S_IMODE(path.stat().st_mode) == expected


def test_the_same_project_gives_the_same_files_and_another_one_nothing_in_common(
    tmp_path, images, home
):
    for name, project in (("one", "lungs"), ("two", "lungs"), ("three", "hearts")):
        ask(images, tmp_path / name, "--home", home.folder, "--project", project)
    one, two, three = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in below(tmp_path / name)}
        for name in ("one", "two", "three")
    )
    assert one == two
    assert not {p.name for p in one} & {p.name for p in three}
    assert not {p.parent for p in one} & {p.parent for p in three}
    assert sorted(path.name for path in below(home.deidentification)) == ["hearts.key", "lungs.key"]


def test_the_table_is_kept_beside_the_key_and_only_if_asked_for(tmp_path, images, home):
    ask(images, tmp_path / "out", "--home", home.folder)
    assert [path.name for path in below(home.deidentification)] == ["default.key"]
    result = ask(images, tmp_path / "again", "--home", home.folder, "--table")
    (table,) = (path for path in below(home.deidentification) if path.suffix == ".csv")
    assert f"{table} says who is who; it must not leave the site." in result.output
    with table.open() as opened:
        rows = list(csv.DictReader(opened))
    assert [row["patient"] for row in rows] == ["4711", "4711", "4712"]
    for row in rows:
        written = pydicom.dcmread(tmp_path / "again" / row["output"])
        original = pydicom.dcmread(row["input"])
        assert (written.PatientID, original.PatientID) == (row["pseudonym"], row["patient"])


def test_the_audit_log_has_the_project(tmp_path, images, home):
    ask(images, tmp_path / "out", "--home", home.folder, "--project", "lungs")
    (line,) = (json.loads(line) for line in home.audit_log.read_text().splitlines())
    assert (line["event"], line["project"]) == ("deidentified", "lungs")
    assert not verify(home.audit_log)


def test_what_is_refused_or_left_out_is_counted_and_leaves_nothing(tmp_path, images, home):
    (images / "burned.dcm").write_bytes(content(image(BurnedInAnnotation="YES")))
    (images / "short.dcm").write_bytes(content(image(SOPInstanceUID="1.2.9"))[:-5])
    (images / "copy.dcm").write_bytes((images / "Quist^4712" / "2.dcm").read_bytes())
    (images / "Quist.txt").write_text("Quist")
    (images / "link.dcm").symlink_to(images / "Quist^4712" / "2.dcm")
    (images / "out-of-here").symlink_to(tmp_path)
    os.mkfifo(images / "pipe.dcm")
    found = counts(images, tmp_path / "out", "--home", home.folder)
    assert found["written"] == len(below(tmp_path / "out")) == 3
    assert found["refused"] == {
        "burned-in annotation: the pixels hold text": 1,
        "truncated or damaged": 1,
        "another file has the same SOP instance UID": 1,
    }
    assert found["left_out"] == {
        "not a DICOM file": 1,
        "a symbolic link, which may lead out of the folder": 2,
        "neither a file nor a folder": 1,
    }


def test_the_report_has_no_word_of_the_files(tmp_path, images, home):
    (images / "Quist.txt").write_text("Quist")
    (images / "short.dcm").write_bytes(content(image())[:-5])
    for number, options in enumerate(([], ["--json"])):
        result = ask(images, tmp_path / f"out{number}", "--home", home.folder, *options)
        assert not any(word in result.output for word in ("Quist", "471", "1.2.3", "short"))


def test_one_file_and_a_key_of_ones_own(tmp_path, images):
    key = tmp_path / "own.key"
    key.write_text("ab" * 32 + "\n")
    key.chmod(0o600)
    (one, *_) = below(images)
    assert counts(one, tmp_path / "out", "--key", key)["written"] == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "There is no key to make pseudonyms with; name this site's folder with --home"),
        (["--key", "none.key"], "none.key: cannot be read"),
        (["--home", "nowhere"], "nowhere: there is no site home here"),
        (["--home", "HOME", "--project", "../x"], "--project '../x': take 1 to 64 letters"),
        (["--home", "HOME", "--no-text-in", "XX"], "--no-text-in 'XX': take one of"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_nothing_is_written(
    tmp_path, images, home, options, sentence
):
    options = [home.folder if option == "HOME" else option for option in options]
    result = ask(images, tmp_path / "out", *options)
    assert (result.exit_code, result.output.count("error: ")) == (1, 1)
    assert sentence in result.output
    assert not (tmp_path / "out").exists()
    assert not home.deidentification.exists()


@pytest.mark.parametrize(
    ("source", "output", "sentence"),
    [
        ("nothing", "out", "nothing: there is no such file or folder"),
        ("empty", "out", "empty: there is no DICOM file here"),
        ("in", "full", "full: this folder is not empty, and nothing is ever written over"),
        ("in", "file", "file: this is no folder"),
        ("in", "link", "link: this is no folder"),
        ("in", "in/out", "in/out: this lies in the folder that is read"),
        ("in", "in", "in: this lies in the folder that is read"),
    ],
)
@pytest.mark.usefixtures("images")
def test_a_wrong_folder_is_one_sentence(tmp_path, home, source, output, sentence):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("kept")
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    result = ask(tmp_path / source, tmp_path / output, "--home", home.folder)
    assert result.exit_code == 1
    assert sentence in result.output
    assert [path.read_text() for path in (tmp_path / "full" / "kept", tmp_path / "file")] == [
        *("kept", "kept")
    ]
    assert below(tmp_path / "empty") == []


def test_a_full_disk_ends_it_with_whole_files_only(tmp_path, images, home, monkeypatch):
    monkeypatch.setattr(durable.os, "fsync", _full_after(3))
    result = ask(images, tmp_path / "out", "--home", home.folder)
    assert result.exit_code == 1
    assert "it cannot be written (No space left on device; free some space)" in result.output
    written = below(tmp_path / "out")
    assert len(written) == 1
    assert all(pydicom.dcmread(path).PixelData for path in written)


def _full_after(files):
    """`os.fsync` that fails after so many files; key and audit log are two of them."""
    real, calls = os.fsync, []

    def fsync(handle):
        if stat.S_ISREG(os.fstat(handle).st_mode):
            calls.append(handle)
            if len(calls) > files:
                raise OSError(28, "No space left on device")
        real(handle)

    return fsync


def test_looked_at_images_are_written(tmp_path, home):
    folder = tmp_path / "in"
    folder.mkdir()
    cr = image(SOPClassUID="1.2.840.10008.5.1.4.1.1.1", Modality="CR")
    (folder / "a.dcm").write_bytes(content(cr))
    assert counts(folder, tmp_path / "one", "--home", home.folder)["written"] == 0
    found = counts(folder, tmp_path / "two", "--home", home.folder, "--no-text-in", "CR")
    assert found["written"] == 1
