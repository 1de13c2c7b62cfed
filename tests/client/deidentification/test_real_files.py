"""Files of real scanners and of every transfer syntax: the image stays, and can be read here."""

import os
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from wardround_client.deidentification.deidentify import _new_file
from wardround_client.deidentification.project_key import ProjectKey
from wardround_client.deidentification.tables import action, kept
from wardround_client.deidentification.writing import METHOD
from wardround_client.sources.dicom import read_dicom

KEY = ProjectKey(project="lungs", secret=bytes(32))
CT = Path(os.environ.get("WARDROUND_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))
CT /= "ct-tcga-dicom"
# Of pydicom's own test files, by transfer syntax; see its data/test_files/README.txt.
FILES = (
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_padded.dcm",
    "JPEG2000.dcm",
    "JPGExtended.dcm",
    "693_J2KI.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "examples_overlay.dcm",
    "examples_palette.dcm",
    "examples_rgb_color.dcm",
    "SC_rgb_rle_16bit_2frame.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "SC_rgb_dcmtk_+eb+cy+s4.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
    "SC_rgb_small_odd_big_endian.dcm",
)


def stated(name):
    """The file, with the statement that its pixels hold no text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(get_testdata_file(name, download=False))
        ds.BurnedInAnnotation = "NO"
        buffer = BytesIO()
        ds.save_as(buffer)
    return ds, buffer.getvalue()


@pytest.mark.parametrize("name", FILES)
def test_the_pixels_are_those_of_the_original(name):
    original, data = stated(name)
    new = pydicom.dcmread(BytesIO(_new_file(data, KEY, frozenset()).content))
    assert new.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(new.pixel_array, original.pixel_array)


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_in_the_file_that_is_not_in_a_table(name):
    new = pydicom.dcmread(BytesIO(_new_file(stated(name)[1], KEY, frozenset()).content))
    ours = {
        *("PixelData", "PatientIdentityRemoved", "DeidentificationMethod"),
        *("DeidentificationMethodCodeSequence", "LongitudinalTemporalInformationModified"),
    }
    tables = kept()
    known = ours | tables.numbers | tables.classes | tables.dates | tables.emptied | tables.tables
    known |= tables.sequences | set(tables.codes) | set(tables.terms)
    for element in new:
        treated = action(element.tag.group, element.tag.element) is not None
        assert element.keyword in known or treated, element.keyword
        if element.VR in {"LO", "SH", "ST", "LT", "UT", "PN"} and element.value:
            assert str(element.value) in {"REMOVED", METHOD, new.PatientID} | tables.terms.get(
                element.keyword, frozenset()
            )


def test_every_image_of_a_public_ct_collection_passes_and_is_read_here(tmp_path):
    files = sorted(CT.rglob("*.dcm"))
    if not files:
        pytest.skip("the data set ct-tcga-dicom is not here")
    for file in files[::11]:
        new = tmp_path / "new.dcm"
        new.write_bytes(_new_file(file.read_bytes(), KEY, frozenset()).content)
        assert pydicom.dcmread(new).PixelData == pydicom.dcmread(file).PixelData
        (after,), (before,) = read_dicom(new), read_dicom(file)
        np.testing.assert_array_equal(after.main, before.main)
