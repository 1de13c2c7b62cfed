"""Which model has answered, and what is said beside each of its answers, in terms of DICOM.

Concepts of a study are codes of a private scheme, since a study names its classes as it likes. The
scheme's version is the beginning of the study's id, so that a code means one thing only.
"""

from dataclasses import dataclass
from typing import Any

from highdicom import UID, AlgorithmIdentificationSequence
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import AlgorithmIdentification, CodedConcept
from pydicom.sr.codedict import codes

from wardround_shared import __version__
from wardround_shared.study import Study

SCHEME = "99WARDROUND"

_LONGEST = 64
"""Characters of a long string, LO (PS3.5 6.2)."""

_SHORT = 16
NO_DEVICE = "An answer of a research model: this is not a medical device, and no diagnosis."


def long_string(text: str, longest: int = _LONGEST) -> str:
    """A study's text as a value of LO: a backslash would begin a second value (PS3.5 6.2)."""
    kept = "".join(one if one.isprintable() else " " for one in text.replace("\\", "/"))
    return kept[:longest]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One finished run.

    Attributes:
        run: its name.
        privacy: what protects those whom it was trained on, or that nothing does.
        said: further sentences beside each answer.
    """

    study: Study
    run: str
    privacy: str
    said: tuple[str, ...]

    def concept(self, code: str, name: str, what: str = "") -> CodedConcept:
        """A concept of the study: `what` is said of a class or finding, whose `name` is cut for it.

        `code` has 16 characters at most.
        """
        meaning = long_string(name, _LONGEST - len(what)) + what
        return CodedConcept(code, SCHEME, meaning, self.study.study_id[:_SHORT])

    def named(self, number: int) -> CodedConcept:
        """The study's class or finding of this number."""
        return self.concept(f"C{number}", self.study.study.classes[number])

    def schemes(self) -> list[CodingSchemeIdentificationItem]:
        """What the private codes are, for the object's header."""
        return [
            CodingSchemeIdentificationItem(
                SCHEME,
                name="Classes and figures of a Wardround study",
                version=self.study.study_id[:_SHORT],
                responsible_organization="Wardround",
            )
        ]

    def algorithm(self) -> AlgorithmIdentification:
        """For a report (PS3.16 TID 4019)."""
        study = self.study
        return AlgorithmIdentification(
            study.study.name, study.study_id, [f"run {self.run}", f"wardround {__version__}"]
        )

    def algorithm_of_segment(self) -> AlgorithmIdentificationSequence:
        """For a segment (PS3.3 10.16)."""
        study = self.study
        return AlgorithmIdentificationSequence(
            name=study.study.name[:_LONGEST],
            family=codes.cid7162.ArtificialIntelligence,
            version=study.study_id,
            parameters={"run": self.run},
        )

    def equipment(self) -> dict[str, Any]:
        """Of every object (PS3.3 C.7.5.2), whose new identifier it has too."""
        return {
            "sop_instance_uid": UID(),
            "manufacturer": "Wardround",
            "manufacturer_model_name": self.study.study.name[:_LONGEST],
            "software_versions": f"wardround {__version__}",
            "device_serial_number": self.study.study_id,
            "content_qualification": "RESEARCH",
            "coding_schemes": self.schemes(),
        }
