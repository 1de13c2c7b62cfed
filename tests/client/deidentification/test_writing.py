"""What is written is read back, and what should not be there is refused."""

import pytest
from dicom_images import image
from pydicom.uid import ExplicitVRLittleEndian

from wardround_client.deidentification.writing import written
from wardround_shared.errors import UnreadableError


def test_a_private_attribute_that_got_so_far_is_refused():
    ds = image()
    assert written(ds, ExplicitVRLittleEndian)
    ds.add_new(0x00091001, "LO", "Quist")
    with pytest.raises(UnreadableError):
        written(ds, ExplicitVRLittleEndian)
