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
    |   |-- StoppedError            the run was told to stop; it can go on later
    |   `-- NotEnoughSitesError     fewer answers than the study's minimum; may be tried again
    |       `-- LostRoundError      the question is spent without a sum; the next one can start
    |-- ProtocolError               the software on one side: versions or messages do not match
    |-- PolicyError                 whoever keeps the site: its policy file is wrong
    |   `-- NotAllowedError         policy or staff of a site do not allow what is asked for
    |-- AuditError                  whoever keeps the machine: its audit log was changed, or is full
    |-- EnrolmentError              whoever keeps a home: its files, or those exchanged to enrol
    |   `-- TrustError              a key, signature or fingerprint is not the agreed one: stop
    `-- PrivacyError                nobody may go on: the promise to patients would be broken
        |-- BudgetError             the privacy budget is spent, that of the plan or that of a cap
        |-- LedgerError             the ledger is missing, was changed, or cannot be written
        `-- SecureAggregationError  a message of the protocol is refused, or too few sites are left
            |-- MessageError, ContextError, StageError, SpentError, RosterError, FloorError
            |-- SignatureError, ShareError, ConsistencyError
            |-- SurvivorsError
            |   `-- BothSharesError
            `-- ThresholdError      also a NotEnoughSitesError

The last branch stands in `secure_aggregation/faults.py`, which says what each one means.

Which messages may leave a site: only those of classes with `may_leave_site`. They quote no record,
no path and no file name, and whoever writes one of them keeps it so. Of any other error the server
learns the class, and the sentence stays in the site's own log: a file may be named after a patient.
"""

from typing import ClassVar


class WardroundError(Exception):
    """Base of all errors that end a command with one sentence and a non-zero exit.

    Attributes:
        may_leave_site: whether the sentence may be sent to the server; a class is asked, not an
            instance, and a subclass that may quote a path takes the permission back.
    """

    may_leave_site: ClassVar[bool] = False


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
    """A run cannot start or go on; at a site, because its training diverged."""

    may_leave_site = True


class RunFolderError(RunError):
    """The run folder exists, is incomplete, or cannot be written."""

    may_leave_site = False


class BackendError(RunError):
    """The machinery that runs the sites of a simulation failed."""

    may_leave_site = False


class StoppedError(RunError):
    """The run was told to stop and has done so; what it has reached is stored, and it can go on."""


class NotEnoughSitesError(RunError):
    """Fewer sites answered than the study demands; nothing was aggregated, nothing revealed.

    The same round can be tried again once there are more sites.
    """


class LostRoundError(NotEnoughSitesError):
    """A round's question is spent and there is no sum; asking again is of no use.

    Sites answer a question once. One that ends with false shares, or with a total that honest
    sites cannot have made, is over: the model stays, and the next round starts.
    """


class ProtocolError(WardroundError):
    """Two sides do not speak the same protocol, or a message is malformed."""

    may_leave_site = True


class PolicyError(WardroundError):
    """The site's policy file cannot be read, or says something that cannot be kept."""


class NotAllowedError(PolicyError):
    """What is asked for is not what this site's policy allows, or its staff have approved."""

    may_leave_site = True


class AuditError(WardroundError):
    """The audit log cannot be written, or its last line is not what was written."""


class EnrolmentError(WardroundError):
    """A home, or a file that is exchanged to enrol a site, cannot be used."""


class TrustError(EnrolmentError):
    """A signature, key or fingerprint is not the one that was agreed: an attack, or a mix-up."""


class PrivacyError(WardroundError):
    """Going on would break what was promised to patients."""

    may_leave_site = True


class BudgetError(PrivacyError):
    """The privacy budget is spent: what a study planned, or what a site's policy allows."""


class LedgerError(PrivacyError):
    """The ledger is missing, was changed behind the site's back, or cannot be written."""

    may_leave_site = False
