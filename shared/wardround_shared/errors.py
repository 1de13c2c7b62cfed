"""Every error that a person sees, in one tree, grouped by who must act.

::

    WardroundError                  one sentence: what, where, and what to do
    |-- StudyError                  the researcher: the study file is wrong or impossible
    |   `-- UnsupportedError        asked for, and not there yet; refused, never ignored
    |-- DataError                   whoever holds the data
    |   |-- UnreadableError         one file or record; set aside and counted
    |   `-- CohortError             the cohort as a whole cannot be used
    |-- RunError                    whoever started the run
    |   |-- RunFolderError          exists already, is incomplete, or the disk is full
    |   |-- BackendError            the machinery under a simulation failed
    |   `-- NotEnoughSitesError     fewer answers than the study's minimum
    |-- ProtocolError               the software on one side: versions or messages do not match
    `-- PrivacyError                nobody may go on: the promise to patients would be broken
        `-- BudgetError             the planned privacy budget is spent

The message never holds a record, a path below the data folder that names a patient, or a value
from a patient's record when it may leave the site: such detail stays in the site's own log.
"""


class WardroundError(Exception):
    """Base of all errors that end a command with one sentence and a non-zero exit."""


class StudyError(WardroundError):
    """The study file asks for something wrong or impossible."""


class UnsupportedError(StudyError):
    """The study asks for something that this version cannot do."""


class DataError(WardroundError):
    """The data cannot be used as the study describes it."""


class UnreadableError(DataError):
    """One file or record cannot be read; the cohort is built without it and counts it."""


class CohortError(DataError):
    """The cohort as a whole cannot be used."""


class RunError(WardroundError):
    """A run cannot start or go on."""


class RunFolderError(RunError):
    """The run folder exists, is incomplete, or cannot be written."""


class BackendError(RunError):
    """The machinery that runs the sites of a simulation failed."""


class NotEnoughSitesError(RunError):
    """Fewer sites answered than the study demands; nothing was aggregated."""


class ProtocolError(WardroundError):
    """Two sides do not speak the same protocol, or a message is malformed."""


class PrivacyError(WardroundError):
    """Going on would break what was promised to patients."""


class BudgetError(PrivacyError):
    """The planned privacy budget is spent."""
