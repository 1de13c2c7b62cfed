"""A site's control variate: how far its own gradient is from that of all sites (SCAFFOLD).

Karimireddy et al. 2020, algorithm 1, option II. In each local step c - c_i is taken off, c being
the server's and c_i the site's own; after K steps at the rate lr, which have moved the model from x
to y, c_i becomes c_i - c + (x - y) / (K lr). c_i never leaves: K is the same at every site, so that
the sum of updates tells the server how c moves. P = model parameters.

c_i is worked out from updates as they leave the site, with DP's noise in them, so that it costs no
privacy of its own (post-processing). It may be of an older round than the last: only an update that
was counted has moved c, and the server says which one that was.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround_client.personal_files import PersonalFiles
from wardround_shared.errors import PrivacyError, ProtocolError, RunError
from wardround_shared.messages import GlobalModel, Header
from wardround_shared.study import Study

CONTROL = "control"
"""Name of the folder, below that of the site and run."""

Vector = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What a site begins a round with.

    Attributes:
        own: float32 [P], c_i.
        shared: float32 [P], c.
        counted: the round that left `own`; 0: none.
    """

    own: Vector
    shared: Vector
    counted: int

    @property
    def correction(self) -> Vector:
        """float32 [P], c - c_i: what is added to the gradient in each step."""
        return self.shared - self.own


class ControlPart:
    """The control variate of one site in one run; nothing, if the strategy is another."""

    def __init__(self, study: Study, *, site: str, files: PersonalFiles | None) -> None:
        """The control variate of `site`.

        Args:
            study: the study.
            site: its name.
            files: of the site and run; this part lies in a folder beside them. None only if the
                strategy has no control variates.

        Raises:
            ValueError: it has, and there is no place for them.
        """
        self._training = study.training
        self._secure, self._largest = study.aggregation.secure, study.aggregation.largest_change
        self._site = site
        self._files = None if files is None else files.beside(CONTROL)
        if study.training.strategy == "scaffold" and files is None:
            raise ValueError("no place for the site's control variate, which the study asks for")

    def begin(self, header: Header, model: GlobalModel) -> Drift | None:
        """Both control variates, before a round is paid for; None: the strategy has none.

        Raises:
            ProtocolError: the server has counted this site in a round that is not over.
            PrivacyError: what is kept is damaged, of another run, or gone.
        """
        if model.control is None:
            return None
        counted = model.counted.get(self._site, 0)
        if counted >= header.round:
            raise ProtocolError(
                f"The server says that it has counted this site in round {counted}, and asks for "
                f"round {header.round}; refused."
            )
        own = np.zeros_like(model.control)
        if counted:
            own = self._kept(header).of(counted)
        if own.shape != model.control.shape:
            raise PrivacyError(
                "What this site keeps of its control variate does not fit the study's model; start "
                "a new run."
            )
        return Drift(own=own, shared=model.control, counted=counted)

    def keep(self, drift: Drift, delta: Vector, header: Header) -> None:
        """Keep the site's control variate as this round leaves it.

        Args:
            drift: what the round began with.
            delta: float32 [P], trained minus received parameters, as they leave the site.
            header: of the request.

        Raises:
            RunError: it is not finite.
            PrivacyError: it cannot be kept.
        """
        assert self._training.local_steps is not None
        if self._secure:  # the server adds up what is clamped to the public bound
            delta = delta.clip(-self._largest, self._largest)
        moved = self._training.local_steps * self._training.rate_in(header.round)
        with np.errstate(over="ignore", invalid="ignore"):
            own = drift.own - drift.shared - delta / np.float32(moved)
        if not np.isfinite(own).all():
            raise RunError(
                "The training diverged at this site, in its control variate; lower "
                "training.learning-rate."
            )
        self._kept(header).keep(header.round, own, begun_with=drift.counted)

    def _kept(self, header: Header) -> PersonalFiles:
        assert self._files is not None
        if (header.run, header.study_id) != (self._files.run, self._files.study_id):
            raise PrivacyError(
                "A request is of another run than this site's control variate; refused."
            )
        return self._files
