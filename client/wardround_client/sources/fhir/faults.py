"""Every phrase that says why something was not used; none quotes the data."""

from enum import StrEnum


class Fault(StrEnum):
    """Why a patient, or what may be one, is set aside."""

    TOO_LARGE = "the file is larger than 256 MB"
    NO_JSON = "this is not valid JSON"
    NO_BUNDLE = "this is not a FHIR Bundle"
    BUNDLE_TYPE = "the Bundle is no transaction, batch, collection or searchset"
    OTHER_VERSION = "the resources are of another version of FHIR than R4"
    MALFORMED = "a resource is not as FHIR R4 says"
    NOWHERE = "a reference to the patient resolves nowhere"
    SEVERAL = "the Bundle has resources of several patients"
    NO_PATIENT = "there is no Patient"
    NO_KEY = "the Patient has no id, or no one identifier of the system that the study names"
    CONTRADICTION = "two Patient resources of one patient contradict each other"


class LeftOut(StrEnum):
    """Why a patient is no example: the question of the study does not apply."""

    NO_DAY = "no day of prediction"
    UNBORN = "born after the prediction"
    DEAD = "died before the prediction"
    NOTHING = "nothing observed before the prediction"
    BEFORE = "the condition began before the prediction"
    VAGUE = "when the condition began is not known well enough"
    LOST = "the record ends too early"


class Unused(StrEnum):
    """Why a value of a feature is not used."""

    STATUS = "are not final"
    UNDATED = "have no date"
    NO_VALUE = "have no value"
    OTHER_KIND = "have another kind of value"
    COMPARATOR = "are more or less than a number"
    OTHER_UNIT = "are in another unit"
    NO_NUMBER = "are no finite number"
    OUTSIDE = "lie outside low and high"
    OTHER_ANSWER = "are answers that the study does not name"
