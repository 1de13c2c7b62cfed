"""Which patients train and which validate: decided for each patient alone, by a hash.

So the split depends neither on the order of rows, nor on which site a patient is dealt to, nor on
who else is in the cohort. n = examples.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_CODES = 2**63


def patient_code(study_name: str, patient: str) -> int:
    """A number of 63 bits that stands for the patient in this study.

    It is no anonymisation: whoever has a list of patient keys can compute it. It stays at the
    site like the key itself.
    """
    digest = hashlib.sha256(f"wardround-patient\0{study_name}\0{patient}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def in_validation(codes: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """Whether each example's patient validates, with about `fraction` of the patients doing so."""
    return codes < int(fraction * _CODES)


def with_both_sides(codes: NDArray[np.int64], validation: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The split with at most one patient moved, so that neither side is empty.

    Somebody always trains; with two patients or more somebody also validates. Who moves is the
    patient whose hash is nearest to the threshold.
    """
    everyone = np.unique(codes)
    settled = validation.copy()
    if validation.all():
        settled[codes == everyone[-1]] = False
    elif not validation.any() and len(everyone) > 1:
        settled[codes == everyone[0]] = True
    return settled
