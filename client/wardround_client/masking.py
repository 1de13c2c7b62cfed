"""How a site answers in a run with secure aggregation: it accepts first, and touches data after.

Accepting checks the whole request. What fails later leaves the request unanswered, and for one
reason only.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wardround_client.outbound import Masking
from wardround_client.received import Expected, Request
from wardround_client.secure import SecureMember
from wardround_client.training import local_seed
from wardround_shared.errors import PrivacyError, RunError, WardroundError
from wardround_shared.messages import MASK_REQUEST, TRAIN, Fitted
from wardround_shared.secure_aggregation import RandomBytes, VectorLayout
from wardround_shared.secure_aggregation.faults import ContextError
from wardround_shared.study import Study
from wardround_shared.vectors import sums_layout, update_layout

_log = logging.getLogger(__name__)

NO_ANSWER = (
    "This site took the request and could not answer it; its own log says why (among the reasons "
    "are a diverged training, which a lower training.learning-rate helps, and more examples than "
    "aggregation.largest-cohort)."
)
"""Said of every failure after a site has touched its data, since the reason may depend on them."""


class MaskedAnswers:
    """The answers of one site in one run that demands secure aggregation."""

    def __init__(
        self,
        *,
        study: Study,
        site: str,
        member: Callable[[], SecureMember] | None,
        rounding_seed: int | None,
    ) -> None:
        """Answers of `site`.

        Args:
            study: with secure aggregation.
            site: its name.
            member: its part in the protocol, read anew for each request: another process may have
                answered the last one.
            rounding_seed: of stochastic rounding, in a simulation that is to be repeated to the
                last bit.
        """
        self._study = study
        self._site = site
        self._member = member
        self._rounding_seed = rounding_seed

    def member(self) -> SecureMember:
        """This site's part in the protocol, as it is on disk.

        Raises:
            PrivacyError: it has none.
        """
        if self._member is None:
            raise PrivacyError("This site does not take part in secure aggregation in this run.")
        return self._member()

    def accept(
        self,
        message_type: str,
        request: Request,
        expected: Expected,
        *,
        length: int,
        fitted: Fitted = (),
    ) -> Masking:
        """Check a request and take the right to mask an answer to it, before data are touched.

        Args:
            message_type: what is asked for.
            request: as it came.
            expected: what the study's requests look like.
            length: parameters of an update, or sums.
            fitted: preprocessing constants that came with it.

        Raises:
            PrivacyError: the request does not bring secure aggregation, or not rightly, or the
                question is not to be answered any more.
            ProtocolError: the study asks for no such sum in that round.
        """
        if MASK_REQUEST not in request.secure:
            raise PrivacyError(
                "The server asks for an answer in the clear; the study demands secure aggregation."
            )
        header, member = request.header, self.member()
        if header.run != member.run:
            raise ContextError("A request is of another run than the one agreed on here; refused.")
        question = expected.question(message_type, header, fitted)
        layout = _layout(self._study, message_type, length=length, sites=member.sites)
        accepted = member.accept(
            request.secure, layout=layout, model_digest=request.digest, question=question
        )
        return Masking(
            study=self._study,
            layout=layout,
            rounding=self._rounding(message_type, header.round),
            accepted=accepted,
        )

    @contextmanager
    def one_reason(self) -> Iterator[None]:
        """While data are touched: whatever fails, the server learns that it failed and no more.

        Reasons would be answers of their own, about one site's data and beside every sum.

        Raises:
            RunError: for any exception; the site's own log has that one.
        """
        try:
            yield
        except Exception as error:
            _log.error(
                "site %s could not answer: %s: %s",
                self._site,
                type(error).__name__,
                error,
                exc_info=not isinstance(error, WardroundError),
            )
            raise RunError(NO_ANSWER) from error

    def _rounding(self, message_type: str, round_number: int) -> RandomBytes:
        """Where the chances of stochastic rounding come from in one answer."""
        if self._rounding_seed is None:
            return os.urandom
        label = f"{message_type}/{local_seed(self._rounding_seed, self._site, round_number)}"
        return lambda size: hashlib.shake_256(f"wardround/rounding/{label}".encode()).digest(size)


def _layout(study: Study, message_type: str, *, length: int, sites: int) -> VectorLayout:
    """Layout of an answer, worked out from the study and the request: nothing of it is data."""
    if message_type == TRAIN:
        return update_layout(study, parameters=length, sites=sites)
    return sums_layout(study, message_type, length=length, sites=sites)
