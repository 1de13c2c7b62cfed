"""The order in which a site answers, so that a crash between any two steps does no harm.

Check the request, look for a stored answer, accept the masks, pay, work, store, settle, mask, send.
Whatever has left a site was stored and paid for before; whatever was stored is never worked on
again. docs/ledger.md goes through the moments at which a site may be killed.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from flwr.app import RecordDict

from wardround_client import outbound
from wardround_client.answers import AnswerStore, Asked, Formed
from wardround_client.masking import NO_ANSWER, MaskedAnswers
from wardround_client.outbound import Masking
from wardround_client.received import Expected, Request
from wardround_client.refusals import reason_of
from wardround_client.rounds import RoundPayment
from wardround_shared.errors import RunError
from wardround_shared.messages import Fitted

Work = Callable[[Masking | None], Formed]
"""Touches data and forms the answer, for these masks or in the clear."""


class Answering:
    """One site's answers in one run."""

    def __init__(
        self,
        *,
        site: str,
        secure: bool,
        expected: Expected,
        masked: MaskedAnswers,
        answers: AnswerStore,
    ) -> None:
        """The answers of a site.

        Args:
            site: its name.
            secure: whether the study demands secure aggregation.
            expected: what the study's requests look like.
            masked: what it demands.
            answers: what the site remembers.
        """
        self._site = site
        self._secure = secure
        self._expected = expected
        self._masked = masked
        self._answers = answers

    def turn(self, request: Request) -> AbstractContextManager[None]:
        """See `AnswerStore.turn`."""
        return self._answers.turn(request.header.run)

    def answer(
        self,
        kind: str,
        request: Request,
        work: Work,
        *,
        length: int,
        fitted: Fitted = (),
        payment: RoundPayment | None = None,
    ) -> RecordDict:
        """Answer a request for a sum, from what is stored or by working.

        Args:
            kind: message type.
            request: as it came.
            work: forms the answer; called at most once.
            length: parameters of an update, or sums.
            fitted: preprocessing constants that came with it.
            payment: of a training.

        Raises:
            ProtocolError: the study asks for no such sum in that round, or it is not to be asked
                again.
            PrivacyError: masks or payment are refused, or the answer cannot be kept.
            RunError: there is no answer, now and whenever it is asked for.
        """
        header = request.header
        asked = Asked(
            run=header.run,
            kind=kind,
            round=header.round,
            question=self._expected.question(kind, header, fitted),
            digest=request.digest,
        )
        with self.turn(request):
            stored = self._answers.find(asked)
            if stored is not None and stored.failure is not None:
                _settle(payment)
                raise RunError(stored.failure)
            masking = self._accept(kind, request, length=length, fitted=fitted)
            if stored is None and payment is not None:
                payment.begin()
            # From here on data may be touched: answered or not, the question is paid for.
            with self._touching(masking):
                if stored is None:
                    formed = self._formed(asked, work, masking, payment)
                else:
                    formed = stored.formed
                _settle(payment)
                return outbound.sent(formed, masking)

    # --- parts -------------------------------------------------------------------------------

    def _accept(
        self, kind: str, request: Request, *, length: int, fitted: Fitted
    ) -> Masking | None:
        """Accept the masks; None only if the study says that it is answered in the clear."""
        if not self._secure:
            return None
        return self._masked.accept(kind, request, self._expected, length=length, fitted=fitted)

    def _touching(self, masking: Masking | None) -> AbstractContextManager[None]:
        """While data are touched. In the clear the server sees more of them than any reason."""
        return nullcontext() if masking is None else self._masked.one_reason()

    def _formed(
        self, asked: Asked, work: Work, masking: Masking | None, payment: RoundPayment | None
    ) -> Formed:
        """Work, and keep what came of it: an answer, or that there will be none."""
        try:
            formed = work(masking)
        except Exception as error:
            secret = masking is not None or not self._answers.repeats
            failure = NO_ANSWER if secret else reason_of(error, site=self._site)
            # The server learns of it, which is something about the data: no second try.
            self._answers.failed(asked, failure)
            _settle(payment)
            if secret:  # whoever has called takes care of what is said
                raise
            raise RunError(failure) from error
        self._answers.store(asked, formed)
        return formed


def _settle(payment: RoundPayment | None) -> None:
    if payment is not None:
        payment.settle()
