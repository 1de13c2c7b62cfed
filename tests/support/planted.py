"""A CT image with an identifier in every place where a DICOM file can hold one.

Every identifier is a string of its own, so that a test can say which one was left. `forms` gives
the bytes that it would have in any encoding.
"""

import struct
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

ENCODINGS = (
    *("utf-8", "latin-1", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"),
    *("iso2022_jp", "shift_jis", "euc_jp", "euc_kr", "gb18030", "iso8859_5", "cp1251", "cp037"),
)
ROOT = "1.2.826.0.1.3680043.9.9999"
PIXELS = np.arange(12, dtype="<u2").reshape(3, 4)


@dataclass
class Planted:
    """A data set under way, and what was planted in it."""

    identifiers: dict[str, str] = field(default_factory=dict)
    uids: int = 0

    def word(self, place: str, *, upper: bool = False) -> str:
        """An identifier of 14 letters and digits, for a place."""
        number = len(self.identifiers)
        text = f"Quist{number:03}Hvarf"
        return self._plant(place, text.upper() if upper else text)

    def number(self, place: str) -> str:
        """An identifier of digits only."""
        return self._plant(place, f"4900{len(self.identifiers):03}7719")

    def date(self, place: str) -> str:
        """A date that no other place has."""
        number = len(self.identifiers)
        return self._plant(
            place, f"19{31 + number % 60:02}{1 + number % 12:02}{1 + number % 27:02}"
        )

    def time(self, place: str) -> str:
        return self._plant(place, f"2117{len(self.identifiers) % 60:02}.{917000 + self.uids:06}")

    def uid(self, place: str) -> str:
        self.uids += 1
        return self._plant(place, f"{ROOT}.{self.uids}.7717")

    def text(self, place: str, text: str) -> str:
        return self._plant(place, text)

    def _plant(self, place: str, text: str) -> str:
        assert place not in self.identifiers, place
        assert text not in self.identifiers.values(), place
        self.identifiers[place] = text
        return text


def forms(identifier: str) -> set[bytes]:
    """The identifier as bytes in every encoding that has its letters, with its parts."""
    parts = {identifier, *(part for part in identifier.split("^") if len(part) > 3)}
    found = set()
    for part in parts:
        for encoding in ENCODINGS:
            try:
                found |= {part.encode(encoding), part.lower().encode(encoding)}
            except UnicodeEncodeError:
                continue
    return {form for form in found if len(form) > 3}


def planted_file() -> tuple[bytes, dict[str, str]]:
    """The bytes of the file, and place -> identifier."""
    p = Planted()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationVersionName = p.word("implementation version")
    meta.SourceApplicationEntityTitle = p.word("source AE title")
    meta.SendingApplicationEntityTitle = p.word("sending AE title")
    meta.ReceivingApplicationEntityTitle = p.word("receiving AE title")
    meta.PrivateInformationCreatorUID = p.uid("private information creator")
    meta.PrivateInformation = p.word("private information").encode()
    ds = FileDataset("", {}, file_meta=meta)
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = p.uid("instance")
    for part in (_patient, _visit, _equipment, _descriptions, _sequences, _unusual, _image):
        part(ds, p)
    ds.preamble = p.word("preamble").encode().ljust(128, b"\0")
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue() + _tail(p), p.identifiers


def _patient(ds: Dataset, p: Planted) -> None:
    ds.SpecificCharacterSet = ["", "ISO 2022 IR 87", "ISO 2022 IR 149"]
    family, ideographic = p.text("family name", "Hvarfquist"), p.text("kanji name", "山田太郎花子")
    phonetic = p.text("kana name", "やまだたろう")
    ds.PatientName = f"{family}^{p.text('given name', 'Ingeborg')}={ideographic}={phonetic}"
    ds.PatientID = p.number("patient ID")
    ds.IssuerOfPatientID = p.word("issuer of patient ID")
    ds.PatientBirthDate = p.date("birth date")
    ds.PatientBirthTime = p.time("birth time")
    ds.PatientBirthName = p.word("birth name")
    ds.PatientMotherBirthName = p.word("mother's birth name")
    ds.OtherPatientIDs = [p.number("other ID 1"), p.number("other ID 2")]
    ds.OtherPatientNames = [p.word("other name 1"), p.word("other name 2")]
    ds.PatientAge = p.text("age over 89", "097Y")
    ds.PatientAddress = p.word("address")
    ds.PatientTelephoneNumbers = p.number("telephone")
    ds.PatientComments = p.word("patient comments")
    ds.AdditionalPatientHistory = p.word("history")
    ds.EthnicGroup = p.word("ethnic group")
    ds.Occupation = p.word("occupation")
    ds.MilitaryRank = p.word("military rank")
    ds.InsurancePlanIdentification = p.word("insurance")
    ds.ResponsiblePerson = p.word("responsible person")
    ds.PatientReligiousPreference = p.word("religion")
    ds.RegionOfResidence = p.word("region of residence")
    other = Dataset()
    other.PatientID = p.number("ID in other patient IDs sequence")
    ds.OtherPatientIDsSequence = Sequence([other])


def _visit(ds: Dataset, p: Planted) -> None:
    ds.AccessionNumber = p.number("accession number")
    ds.StudyID = p.word("study ID")
    ds.StudyInstanceUID = p.uid("study")
    ds.SeriesInstanceUID = p.uid("series")
    ds.FrameOfReferenceUID = p.uid("frame of reference")
    ds.IrradiationEventUID = [p.uid("irradiation event 1"), p.uid("irradiation event 2")]
    for name in ("Study", "Series", "Acquisition", "Content"):
        setattr(ds, f"{name}Date", p.date(f"{name} date"))
        setattr(ds, f"{name}Time", p.time(f"{name} time"))
    ds.AcquisitionDateTime = p.date("acquisition date time") + p.time("its time") + "+0345"
    p.text("time zone in a date time", "+0345")
    ds.InstanceCreationDate = p.date("instance creation date")
    ds.TimezoneOffsetFromUTC = p.text("time zone", "+0545")
    ds.ReferringPhysicianName = p.word("referring physician")
    ds.PerformingPhysicianName = p.word("performing physician")
    ds.NameOfPhysiciansReadingStudy = p.word("reading physician")
    ds.OperatorsName = [p.word("operator 1"), p.word("operator 2")]
    ds.InstitutionName = p.word("institution")
    ds.InstitutionAddress = p.word("institution address")
    ds.InstitutionalDepartmentName = p.word("department")
    ds.AdmissionID = p.number("admission ID")
    ds.CurrentPatientLocation = p.word("location")
    ds.PerformedProcedureStepID = p.word("procedure step ID")
    ds.ClinicalTrialSubjectID = p.word("trial subject")
    ds.ClinicalTrialSiteName = p.word("trial site")


def _equipment(ds: Dataset, p: Planted) -> None:
    ds.Manufacturer = p.word("manufacturer")
    ds.ManufacturerModelName = p.word("model")
    ds.StationName = p.word("station")
    ds.DeviceSerialNumber = p.word("device serial number")
    ds.DeviceUID = p.uid("device")
    ds.SoftwareVersions = p.word("software")
    ds.DetectorID = p.word("detector")
    ds.PlateID = p.word("plate")
    ds.GantryID = p.word("gantry")
    ds.ConvolutionKernel = p.word("kernel")
    ds.FilterType = p.word("filter", upper=True)


def _descriptions(ds: Dataset, p: Planted) -> None:
    ds.StudyDescription = p.word("study description")
    ds.SeriesDescription = p.word("series description")
    ds.ProtocolName = p.word("protocol")
    ds.AcquisitionProtocolDescription = p.word("acquisition protocol description")
    ds.AcquisitionDeviceProcessingDescription = p.word("processing description")
    ds.ImageComments = p.word("image comments")
    ds.StudyComments = p.word("study comments")
    ds.RequestedProcedureDescription = p.word("requested procedure")
    ds.DerivationDescription = p.word("derivation")
    ds.ContrastBolusAgent = p.word("contrast agent")
    ds.DeidentificationMethod = p.word("earlier method")
    ds.WindowCenterWidthExplanation = p.word("window explanation")
    ds.TextComments = p.word("text comments")


def _sequences(ds: Dataset, p: Planted) -> None:
    request = Dataset()
    request.RequestedProcedureID = p.word("requested procedure ID")
    request.ScheduledProcedureStepDescription = p.word("scheduled step")
    ds.RequestAttributesSequence = Sequence([request])

    patient = _reference(p, "referenced patient")
    ds.ReferencedPatientSequence = Sequence([patient])
    image = _reference(p, "referenced image")
    image.add_new(0x00091001, "LO", p.word("private in a referenced image"))
    image.PatientName = p.word("name in a referenced image")
    ds.ReferencedImageSequence = Sequence([image])

    source = _reference(p, "source image")
    source.PurposeOfReferenceCodeSequence = Sequence([_code(p, "purpose of reference")])
    derivation = Dataset()
    derivation.SourceImageSequence = Sequence([source])
    derivation.DerivationDescription = p.word("nested derivation")
    frame = Dataset()
    frame.DerivationImageSequence = Sequence([derivation])
    frame.FrameContentSequence = Sequence([_frame_content(p)])
    ds.SharedFunctionalGroupsSequence = Sequence([frame])

    content = Dataset()
    content.ValueType = "PNAME"
    content.PersonName = p.word("person in content sequence")
    content.TextValue = p.word("text in content sequence")
    nested = Dataset()
    nested.TextValue = p.word("text deep in content sequence")
    content.ContentSequence = Sequence([nested])
    ds.ContentSequence = Sequence([content])

    modified = Dataset()
    modified.PatientName = p.word("name in original attributes")
    original = Dataset()
    original.ModifyingSystem = p.word("modifying system")
    original.SourceOfPreviousValues = p.word("source of previous values")
    original.ModifiedAttributesSequence = Sequence([modified])
    ds.OriginalAttributesSequence = Sequence([original])

    _texts_in_sequences(ds, p)


def _texts_in_sequences(ds: Dataset, p: Planted) -> None:
    signature = Dataset()
    signature.CertificateOfSigner = p.word("certificate").encode()
    signature.DigitalSignatureUID = p.uid("signature")
    ds.DigitalSignaturesSequence = Sequence([signature])

    icon = Dataset()
    icon.Rows = icon.Columns = 4
    icon.add_new(0x7FE00010, "OB", p.word("icon").encode().ljust(16, b"\0"))
    ds.IconImageSequence = Sequence([icon])

    annotation = Dataset()
    annotation.UnformattedTextValue = p.word("waveform annotation")
    ds.WaveformAnnotationSequence = Sequence([annotation])
    graphic = Dataset()
    text = Dataset()
    text.UnformattedTextValue = p.word("graphic annotation")
    graphic.TextObjectSequence = Sequence([text])
    ds.GraphicAnnotationSequence = Sequence([graphic])
    ds.AnatomicRegionSequence = Sequence([_code(p, "anatomic region")])
    ds.ProcedureCodeSequence = Sequence([_code(p, "procedure code")])


def _reference(p: Planted, place: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = CTImageStorage
    item.ReferencedSOPInstanceUID = p.uid(place)
    return item


def _code(p: Planted, place: str) -> Dataset:
    item = Dataset()
    item.CodeValue = p.word(f"value of {place}")
    item.CodingSchemeDesignator = "99LOCAL"
    item.CodeMeaning = p.word(f"meaning of {place}")
    return item


def _frame_content(p: Planted) -> Dataset:
    item = Dataset()
    item.FrameAcquisitionDateTime = p.date("frame date") + p.time("frame time")
    item.FrameComments = p.word("frame comments")
    item.FrameLabel = p.word("frame label")
    item.StackID = p.word("stack ID")
    item.InStackPositionNumber = 1
    return item


def _unusual(ds: Dataset, p: Planted) -> None:
    private = Dataset()
    private.add_new(0x00110010, "LO", p.word("nested private creator"))
    private.add_new(0x00111001, "LO", p.word("nested private value"))
    ds.add_new(0x00110010, "LO", p.word("private creator"))
    ds.add_new(0x00111001, "PN", p.word("private name"))
    ds.add_new(0x00111002, "UN", p.word("private unknown").encode())
    ds.add_new(0x00111003, "SQ", Sequence([private]))
    ds.add_new(0x7FE11010, "OB", p.word("private behind the pixels").encode())
    # A public element whose representation nobody knows, and one with a false one.
    ds.add_new(0x001021A0, "UN", p.word("public element as UN", upper=True).encode())
    ds.add_new(0x00180060, "LO", p.word("kVp as text"))
    ds.add_new(0x00280010, "US", 3)
    # Tags that the standard does not have, of even groups.
    ds.add_new(0x00091234 & ~0x00010000, "LO", p.word("unknown tag"))
    ds.add_new(0x00FE0002, "UT", p.word("unknown group"))
    ds.add_new(0x40100010, "UN", p.word("another unknown group").encode())
    # Overlays and curves.
    ds.add_new(0x60000010, "US", 4)
    ds.add_new(0x60000011, "US", 4)
    ds.add_new(0x60000022, "LO", p.word("overlay description"))
    ds.add_new(0x60003000, "OB", p.word("overlay data").encode())
    ds.add_new(0x60004000, "LT", p.word("overlay comments"))
    ds.add_new(0x601E3000, "OB", p.word("last overlay").encode())
    ds.add_new(0x50000022, "LO", p.word("curve label"))
    ds.add_new(0x50003000, "OB", p.word("curve data").encode())
    ds.add_new(0x50040030, "SH", p.word("another curve"))
    # Embedded documents.
    ds.EncapsulatedDocument = p.word("encapsulated document").encode()
    ds.DocumentTitle = p.word("document title")
    # In fields that are for terms and numbers, and are kept where they hold such.
    ds.BodyPartExamined = p.word("body part", upper=True)
    ds.ImageType = ["ORIGINAL", "PRIMARY", p.word("image type", upper=True)]
    ds.PatientOrientation = ["L", p.word("orientation", upper=True)]
    ds.add_new(0x00181150, "IS", p.number("exposure time"))
    ds.add_new(0x00180050, "DS", p.number("slice thickness"))
    ds.add_new(0x00189087, "FD", struct.unpack("<d", p.text("b-value", "JensHvar").encode())[0])
    ds.add_new(0x00189328, "FD", [1.0] * 2 + [struct.unpack("<d", b"Hvarf777")[0]])
    p.text("second of many numbers", "Hvarf777")
    ds.add_new(0xFFFCFFFC, "OB", p.word("data set trailing padding").encode())


def _image(ds: Dataset, p: Planted) -> None:
    ds.Modality = "CT"
    ds.InstanceNumber, ds.SeriesNumber = 7, 2
    ds.Rows, ds.Columns = PIXELS.shape
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleIntercept, ds.RescaleSlope = -1024, 1
    ds.PixelData = PIXELS.tobytes() + p.word("behind the last pixel").encode() + b"\0"
    ds["PixelData"].VR = "OW"


def _tail(p: Planted) -> bytes:
    """An element behind all others, of a length that is written wrongly by some systems: none."""
    text = p.word("second trailing padding").encode().ljust(16)
    return struct.pack("<HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, len(text)) + text
