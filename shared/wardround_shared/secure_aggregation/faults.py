"""What can go wrong in secure aggregation, one class per fault.

::

    SecureAggregationError      PrivacyError: the round stops at whoever sees it, nothing is sent
    |-- MessageError            truncated, oversized or malformed
    |-- ContextError            of another study, run, round, roster, model or vector layout
    |-- StageError              does not fit what has happened so far in this round
    |-- SpentError              this site has given its one answer of that kind in this round
    |-- RosterError             names a site that is not in the approved roster, or one twice
    |-- FloorError              cohort or threshold below what this site accepts
    |-- SignatureError          not signed by the site that it claims to be from
    |-- ShareError              a sealed share or a reconstructed secret is not the one dealt
    |-- SurvivorsError          the survivor set contradicts what this site knows
    |   `-- BothSharesError     a site would be unmasked twice: as survivor and as dropped
    |-- ConsistencyError        the sites did not all sign the same survivor set
    `-- ThresholdError          too few sites left; the round is given up and nothing is revealed

The messages name sites by their index in the roster, never by a value. No other exception leaves
`SecureSite`, `SecureServer` or what they call, but for those of the register of answers given
(`OneShots`), which the caller brings. Vectors are made and read outside: `quantise` and
`dequantise` raise `PrivacyError` and `ProtocolError`.
"""

from wardround_shared.errors import NotEnoughSitesError, PrivacyError

QUESTION_SPENT = "This site has unmasked a sum for that question in this run; each has one."
"""What a site says of a question that it will not answer any more; a server recognises it."""


class SecureAggregationError(PrivacyError):
    """Base of the protocol's own errors."""


class MessageError(SecureAggregationError):
    """A message or a stored state is truncated, oversized or malformed."""


class ContextError(SecureAggregationError):
    """A message belongs to another study, run, round, roster, model or vector layout."""


class StageError(SecureAggregationError):
    """A message does not fit what has happened so far."""


class SpentError(SecureAggregationError):
    """A one-shot answer was asked for a second time, or from a restored older state."""


class RosterError(SecureAggregationError):
    """A site is not in the approved roster, or stands in it twice."""


class FloorError(SecureAggregationError):
    """Cohort or threshold are below what this site accepts."""


class SignatureError(SecureAggregationError):
    """Bytes are not signed by the site that they claim to be from."""


class ShareError(SecureAggregationError):
    """A sealed share cannot be opened, or a reconstructed secret is not the one dealt."""


class SurvivorsError(SecureAggregationError):
    """A survivor set contradicts what this site knows."""


class BothSharesError(SurvivorsError):
    """Both shares of one site are asked for, which would lay its vector open."""


class ConsistencyError(SecureAggregationError):
    """Too few sites have signed the survivor set that this site has signed."""


class ThresholdError(SecureAggregationError, NotEnoughSitesError):
    """Too few sites are left; the round is given up, and nothing is revealed."""
