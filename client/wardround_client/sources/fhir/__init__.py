"""`source = "fhir"`: records over time from FHIR R4 Bundles and bulk exports.

The way of a patient: `documents` opens a file, `references` says whose a resource is, `resources`
takes from it what the study asks for, `charts` puts that together over all files, `question` finds
the day of the prediction and the label, `timeline` lays out what was known before that day.

Of a Patient only id, the identifiers of the system that the study names, birth date, gender and
death are read, and identifiers again where a resource refers to a patient by one. Names, addresses
and narratives are never touched, and no message quotes a value.
"""

from wardround_client.sources.fhir.source import FhirSource

__all__ = ["FhirSource"]
