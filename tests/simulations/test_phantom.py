"""Phantoms are valid DICOM of unlike scanners, the same everywhere, whole or not there."""

import csv
import errno
import hashlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from wardround_client.sources import open_source
from wardround_shared.errors import RunFolderError
from wardround_shared.study import PhantomData, load_study
from wardround_simulations import phantom
from wardround_simulations.phantom import write_phantom
from wardround_simulations.phantom.anatomy import draw_chest

STUDY = Path(__file__).parents[2] / "simulations" / "studies" / "phantom.toml"


def phantom_data(*, sites: int = 6, patients: int = 4, size: int = 32) -> PhantomData:
    return PhantomData.model_validate(
        {"source": "phantom", "sites": sites, "patients-per-site": patients, "size": size}
    )


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    pairs = scores[positive][:, None] - scores[~positive][None, :]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "data"
    write_phantom(phantom_data(), folder, seed=3)
    return folder


def test_a_seed_gives_these_bytes_on_every_machine(written: Path) -> None:
    digest = hashlib.sha256()
    for name, content in bytes_of(written).items():
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    # If drawing or writing changes on purpose, raise EDITION and renew this digest.
    assert phantom.EDITION == 2
    assert digest.hexdigest() == "053969356a121bea8d7aae406321508fefe0cea516a3f4ccb782f7c1ebb63d41"


def test_a_mask_is_where_the_lesion_is(written: Path) -> None:
    for row in rows_of(written):
        mask = np.asarray(Image.open(written / row["mask"]))
        image = pydicom.dcmread(written / row["file"])
        assert mask.shape == (image.Rows, image.Columns)
        if row["finding"] == "absent":
            assert not mask.any()
            continue
        place = float(row["lesion_row"]), float(row["lesion_column"])
        rows, columns = np.nonzero(mask)
        distance = np.hypot(rows - place[0], columns - place[1])
        # A cluster's parts lie around its centre, each smaller than the whole.
        assert 0 < distance.max() <= 1.9 * float(row["lesion_radius"])
        assert set(np.unique(mask)) == {0, 1}


def test_more_patients_change_no_earlier_file(written: Path, tmp_path: Path) -> None:
    write_phantom(phantom_data(patients=6), tmp_path / "more", seed=3)
    more = bytes_of(tmp_path / "more")
    for name, content in bytes_of(written).items():
        if name != "labels.csv":
            assert more[name] == content


def test_another_seed_means_other_patients_of_the_same_scanners(
    written: Path, tmp_path: Path
) -> None:
    write_phantom(phantom_data(), tmp_path / "other", seed=4)
    first, second = rows_of(written), rows_of(tmp_path / "other")
    assert not {row["patient"] for row in first} & {row["patient"] for row in second}
    for site in {row["site"] for row in first}:
        serials = {
            pydicom.dcmread(folder / row["file"], stop_before_pixels=True).DeviceSerialNumber
            for folder, rows in ((written, first), (tmp_path / "other", second))
            for row in rows
            if row["site"] == site
        }
        assert len(serials) == 1


def test_scanners_cover_what_the_dicom_source_must_read(written: Path) -> None:
    files = [pydicom.dcmread(file) for file in sorted(written.rglob("*.dcm"))]
    assert {file.file_meta.TransferSyntaxUID for file in files} == {
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        RLELossless,
    }
    assert {file.BitsStored for file in files} == {8, 10, 12, 16}
    assert {file.PixelRepresentation for file in files} == {0, 1}
    assert {file.PhotometricInterpretation for file in files} == {"MONOCHROME1", "MONOCHROME2"}
    assert len({(file.RescaleSlope, file.RescaleIntercept) for file in files}) >= 4
    assert len({file.DeviceSerialNumber for file in files}) == 6


def test_stored_values_fit_their_bits(written: Path) -> None:
    for path in sorted(written.rglob("*.dcm")):
        file = pydicom.dcmread(path)
        lowest = -(1 << (file.BitsStored - 1)) if file.PixelRepresentation else 0
        pixels = file.pixel_array
        assert pixels.shape == (32, 32)
        assert lowest <= pixels.min() < pixels.max() < lowest + (1 << file.BitsStored)


def test_a_file_says_that_it_is_synthetic_and_names_nobody(written: Path) -> None:
    uids = set()
    for path in sorted(written.rglob("*.dcm")):
        file = pydicom.dcmread(path, stop_before_pixels=True)
        assert file.SOPClassUID == SecondaryCaptureImageStorage
        assert file.ConversionType == "SYN"
        assert file.QualityControlSubject == "YES"
        assert not [e.name for e in file if e.VR in {"PN", "DA", "TM", "DT"} and e.value]
        for uid in (file.SOPInstanceUID, file.StudyInstanceUID, file.SeriesInstanceUID):
            assert uid.is_valid
            assert uid.startswith("2.25.")
            uids.add(uid)
    assert len(uids) == 3 * 24


def test_half_of_every_site_has_a_lesion_and_every_lesion_a_place(written: Path) -> None:
    rows = rows_of(written)
    assert len(rows) == 24
    assert len({row["patient"] for row in rows}) == 24
    for site in {row["site"] for row in rows}:
        findings = [row["finding"] for row in rows if row["site"] == site]
        assert sorted(findings) == ["absent"] * 2 + ["present"] * 2
    for row in rows:
        place = [row["lesion_row"], row["lesion_column"], row["lesion_radius"]]
        assert all(place) == any(place) == (row["finding"] == "present")


@pytest.mark.parametrize("seed", range(8))
def test_a_lesion_brightens_the_chest_around_its_place_and_nowhere_else(seed: int) -> None:
    healthy = draw_chest(generator(seed), 64, lesion=False)
    ill = draw_chest(generator(seed), 64, lesion=True)
    assert healthy.lesion is None
    assert ill.lesion is not None
    shadow = ill.attenuation - healthy.attenuation
    rows, columns = np.nonzero(shadow)
    distance = np.hypot(rows - ill.lesion.row, columns - ill.lesion.column)
    assert shadow.min() >= 0.0
    assert shadow.max() > 0.2
    assert distance.max() <= 2.0 * ill.lesion.radius
    # In the lung: darker there than the chest is on average.
    place = int(ill.lesion.row), int(ill.lesion.column)
    assert healthy.attenuation[place] < healthy.attenuation.mean()


def test_brightness_alone_does_not_give_lesions_away() -> None:
    images = [draw_chest(generator(i), 64, lesion=i % 2 == 1).attenuation for i in range(200)]
    positive = np.arange(200) % 2 == 1
    for score in (np.max, np.mean, np.std):
        scores = np.array([score(image) for image in images])
        assert 0.2 < auroc(scores, positive) < 0.8


def test_the_dicom_source_sees_the_same_anatomy_from_every_scanner(written: Path) -> None:
    study = load_study(STUDY)
    study = study.model_copy(update={"data": phantom_data()})
    records = list(open_source(study, written).records())
    means: dict[str, np.ndarray] = {}
    for site in {record.site for record in records}:
        images = [record.main for record in records if record.site == site]
        means[str(site)] = np.mean([(i - i.mean()) / i.std() for i in images], axis=0).ravel()
    assert sorted(means) == [f"site-{i}" for i in range(1, 7)]
    assert sorted(record.stratum for record in records) == [0] * 12 + [1] * 12
    # An image that was not turned right by photometric interpretation would correlate negatively.
    assert np.corrcoef(list(means.values())).min() > 0.8


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="exists already"):
        write_phantom(phantom_data(), tmp_path, seed=0)
    assert bytes_of(tmp_path) == {"notes.txt": b"mine"}


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(phantom, "write_radiograph", full)
    with pytest.raises(RunFolderError, match="No space left"):
        write_phantom(phantom_data(), tmp_path / "data", seed=0)
    assert not list(tmp_path.iterdir())


def test_the_embedded_study_is_private_and_reads_phantoms() -> None:
    study = load_study(STUDY)
    assert isinstance(study.data, PhantomData)
    assert study.privacy.mechanism == "dp-sgd"
    assert (study.privacy.epsilon, study.privacy.delta) == (8.0, 1e-5)
