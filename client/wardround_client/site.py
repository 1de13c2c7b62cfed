"""One site at work: its cohort, its model, and what it answers to each request.

The site knows the study beforehand; a request that names another study is refused. K = classes,
L = metric counts, S = summed statistics.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import RecordDict
from torch import nn

from wardround_client import outbound
from wardround_client.account import Account, Reservation
from wardround_client.cohort import Cohort
from wardround_client.journal import Journal
from wardround_client.masking import MaskedAnswers
from wardround_client.prepared import prepare, prepared_key
from wardround_client.received import Expected, Request
from wardround_client.rounds import begin_round
from wardround_client.secure import SecureMember
from wardround_client.training import (
    Examples,
    LocalTraining,
    Protection,
    evaluate,
    local_seed,
    train,
)
from wardround_shared import __version__
from wardround_shared.errors import PrivacyError, ProtocolError
from wardround_shared.evaluation import counts_length, metrics
from wardround_shared.messages import (
    CLASS_COUNTS,
    EVALUATE,
    STATISTICS,
    TRAIN,
    Fitted,
    Floats,
    GlobalModel,
    Greeting,
    Header,
    add_secure,
)
from wardround_shared.models import build_model, parameter_count, unflatten_
from wardround_shared.preprocessing import Recipe
from wardround_shared.privacy.noise import NoiseSource
from wardround_shared.study import Study


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What the sites that one process serves have in common.

    Attributes:
        seed: of the shuffling; noise never depends on it.
        noise_of: where DP noise and Poisson sampling come from, for a site and round.
        repeatable: whether the rounding of secure aggregation follows the seed as well; for
            simulations, whose result can then be repeated to the last bit.
    """

    study: Study
    device: torch.device
    seed: int
    noise_of: Callable[[str, int], NoiseSource]
    repeatable: bool = False


class Models:
    """The module of the last request, kept so that a worker builds it once."""

    def __init__(self, workplace: Workplace) -> None:
        self._workplace = workplace
        self._recipe = Recipe(workplace.study)
        self._built: dict[tuple[tuple[int, ...], ...], nn.Module] = {}

    def load(self, shapes: tuple[tuple[int, ...], ...], model: GlobalModel) -> nn.Module:
        """The study's module holding the received parameters.

        Args:
            shapes: of one decoded example, per part.
            model: as received.
        """
        study = self._workplace.study
        module = self._built.get(shapes)
        if module is None:
            module = build_model(
                study.model, self._recipe.output_shapes(shapes), len(study.study.classes)
            ).to(self._workplace.device)
            self._built[shapes] = module
        received = torch.from_numpy(model.parameters.copy()).to(self._workplace.device)
        try:
            unflatten_(module, received)
        except ValueError as error:
            raise ProtocolError(
                f"The received model has {received.numel()} parameters, the study's model "
                f"{parameter_count(module)}."
            ) from error
        return module


class Site:
    """Answers the server's requests for one cohort."""

    def __init__(
        self,
        *,
        cohort: Cohort,
        workplace: Workplace,
        models: Models,
        journal: Journal,
        account: Account | None = None,
        member: Callable[[], SecureMember] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._cohort = cohort
        self._workplace = workplace
        self._models = models
        self._journal = journal
        self._account = account
        self._clock = clock
        self._recipe = Recipe(workplace.study)
        # Kept from round to round: mapped files, or tensors on the GPU.
        self._examples: tuple[str, Examples] | None = None
        self._asked: set[tuple[str, bytes]] = set()
        self._shapes = tuple(tuple(array.shape[1:]) for array in cohort.arrays)
        self._expected = Expected(workplace.study, self._recipe, self._shapes)
        self._masked = MaskedAnswers(
            study=workplace.study,
            site=cohort.site,
            member=member,
            rounding_seed=workplace.seed if workplace.repeatable else None,
        )

    def check(self, header: Header) -> None:
        """Refuse a request for any other study.

        Raises:
            ProtocolError: the study's hash is not the one that this site knows.
        """
        if header.study_id != self._workplace.study.study_id:
            raise ProtocolError(
                "The server asks for a study that this site has not agreed to "
                f"(id {header.study_id[:12]})."
            )

    def greet(self, run: str, state: RecordDict) -> RecordDict:
        """Name, software and the shape of an example, if the study's plan fits the ledger.

        Args:
            run: name of the run.
            state: the node's own state; keeps the privacy plan.

        Raises:
            PrivacyError: it does not fit, or there is no ledger.
        """
        if self._workplace.study.privacy.private:
            self._accountant().admit(state, run)
        return outbound.greeting(
            Greeting(site=self._cohort.site, software=__version__, shapes=self._shapes)
        )

    def class_counts(self, request: Request) -> RecordDict:
        """Training examples of each class [K].

        Raises:
            ProtocolError: the study does not need them.
        """
        if self._workplace.study.training.class_weights == "none":
            raise ProtocolError("The server asks for class counts, which this study does not need.")
        classes = len(self._workplace.study.study.classes)
        masking = self._masking(CLASS_COUNTS, request, length=classes)
        with self._answering(masking):
            counts = np.bincount(self._cohort.labels[self._cohort.train], minlength=classes)
            return _sums(masking, CLASS_COUNTS, counts.astype(np.float64))

    def statistics(self, request: Request, model: GlobalModel) -> RecordDict:
        """Sums over the training split that the next fitted preprocessing step needs [S]."""
        cohort, fitted = self._cohort, model.fitted
        self._expected.check_model(STATISTICS, model)
        length = self._recipe.statistics_length(self._shapes, fitted)
        masking = self._masking(STATISTICS, request, length=length, fitted=fitted)
        with self._answering(masking):
            sums = self._recipe.statistics(cohort.arrays, fitted, index=cohort.train)
            return _sums(masking, STATISTICS, sums)

    def train(self, request: Request, model: GlobalModel, state: RecordDict) -> RecordDict:
        """Evaluate the received model, train it, and form the one vector that leaves.

        Args:
            request: as it came.
            model: the global model.
            state: the node's own state; holds the last round and the privacy plan.

        Raises:
            ProtocolError: this round or a later one was trained before.
            BudgetError: the ledger has no room for the round; nothing is trained.
        """
        header = request.header
        self._expected.check_model(TRAIN, model)
        module = self._models.load(self._shapes, model)
        masking = self._masking(TRAIN, request, length=model.parameters.size, fitted=model.fitted)
        begin_round(state, header.round)
        reservation = self._reserve(header, state)
        # From here on the data are touched: answered or not, the request is spent and paid for.
        with self._answering(masking):
            started = self._clock()
            examples = self._prepared(model.fitted)
            counts = self._validate(module, examples)
            evaluated = self._clock()
            settings = self._settings(header, model, reservation)
            delta = train(module, examples, torch.from_numpy(self._cohort.train), settings)
            trained = self._clock()
            if reservation is not None:
                self._accountant().commit(reservation)
            self._write(
                header,
                counts,
                evaluation_seconds=evaluated - started,
                training_seconds=trained - evaluated,
            )
            weight = len(self._cohort.train)
            if masking is None:
                return outbound.update(delta=delta, weight=weight, counts=counts)
            return outbound.masked_update(masking, delta=delta, weight=weight, counts=counts)

    def evaluate(self, request: Request, model: GlobalModel) -> RecordDict:
        """Metric counts of the received model on the validation split."""
        self._expected.check_model(EVALUATE, model)
        module = self._models.load(self._shapes, model)
        length = counts_length(len(self._workplace.study.study.classes))
        masking = self._masking(EVALUATE, request, length=length, fitted=model.fitted)
        with self._answering(masking):
            started = self._clock()
            counts = self._validate(module, self._prepared(model.fitted))
            self._write(
                request.header,
                counts,
                final_counts=counts.tolist(),
                evaluation_seconds=self._clock() - started,
            )
            return _sums(masking, EVALUATE, counts)

    # --- exchanges of secure aggregation that need no data --------------------------------------

    def set_up(self, request: Request) -> RecordDict:
        """Keys, or shares, for the next secure sum."""
        return add_secure(RecordDict(), self._masked.member().set_up(request.secure))

    def confirm(self, request: Request) -> RecordDict:
        """Signature over the survivors of a secure sum, and shares for the next."""
        return add_secure(RecordDict(), self._masked.member().confirm(request.secure))

    def unmask(self, request: Request) -> RecordDict:
        """One share of each site of a secure sum."""
        return add_secure(RecordDict(), self._masked.member().unmask(request.secure))

    # --- parts -------------------------------------------------------------------------------

    def _masking(
        self, message_type: str, request: Request, *, length: int, fitted: Fitted = ()
    ) -> outbound.Masking | None:
        """Accept a request; None only if the study says that it is answered in the clear.

        Raises:
            ProtocolError: the study asks for no such sum in that round, or did so before.
            PrivacyError: see `MaskedAnswers.accept`.
        """
        if not self._workplace.study.aggregation.secure:
            self._ask_once(message_type, request.header, fitted)
            return None
        return self._masked.accept(
            message_type, request, self._expected, length=length, fitted=fitted
        )

    def _ask_once(self, message_type: str, header: Header, fitted: Fitted) -> None:
        """Refuse what was answered before in the clear; with secure aggregation a register does."""
        asked = (header.run, self._expected.question(message_type, header, fitted))
        if asked in self._asked:
            raise ProtocolError(
                f"The server asks for {message_type} of round {header.round} again; each is "
                "answered once."
            )
        if message_type != TRAIN:  # of which rounds.py and the ledger keep account
            self._asked.add(asked)

    def _answering(self, masking: outbound.Masking | None) -> AbstractContextManager[None]:
        """While data are touched. In the clear the server sees more of them than any reason."""
        return nullcontext() if masking is None else self._masked.one_reason()

    def _settings(
        self, header: Header, model: GlobalModel, reservation: Reservation | None
    ) -> LocalTraining:
        return LocalTraining(
            training=self._workplace.study.training,
            round=header.round,
            seed=local_seed(self._workplace.seed, self._cohort.site, header.round),
            class_counts=model.class_counts,
            augmentation=self._recipe.augmentation(),
            protection=self._protection(reservation, header),
        )

    def _prepared(self, fitted: Fitted) -> Examples:
        key = prepared_key(self._recipe, fitted)
        if self._examples is None or self._examples[0] != key:
            parts = prepare(self._cohort, self._recipe, fitted)
            device = self._workplace.device
            examples = Examples(
                parts=tuple(torch.from_numpy(part).to(device) for part in parts),
                labels=torch.from_numpy(self._cohort.labels).to(device),
                patients=torch.from_numpy(self._cohort.patients),
            )
            self._examples = (key, examples)
        return self._examples[1]

    def _validate(self, module: nn.Module, examples: Examples) -> Floats:
        index = torch.from_numpy(self._cohort.validation)
        return evaluate(module, examples, index, len(self._workplace.study.study.classes))

    def _accountant(self) -> Account:
        if self._account is None:
            raise PrivacyError(
                "This site has no privacy ledger, and takes part in no private study without one."
            )
        return self._account

    def _reserve(self, header: Header, state: RecordDict) -> Reservation | None:
        """Pay for the round; None only if the study says that it is not private."""
        if not self._workplace.study.privacy.private:
            return None
        return self._accountant().reserve(state, header)

    def _protection(self, reservation: Reservation | None, header: Header) -> Protection | None:
        if reservation is None:
            return None
        return Protection(
            plan=reservation.plan,
            privacy=self._workplace.study.privacy,
            noise=self._workplace.noise_of(self._cohort.site, header.round),
        )

    def _write(self, header: Header, counts: Floats, **line: Any) -> None:
        classes = self._workplace.study.study.classes
        measured = metrics(counts, classes) if len(self._cohort.validation) else {}
        self._journal.write(
            run=header.run, round=header.round, site=self._cohort.site, metrics=measured, **line
        )


def _sums(masking: outbound.Masking | None, message_type: str, values: Floats) -> RecordDict:
    if masking is None:
        return outbound.sums(values)
    return outbound.masked_sums(masking, message_type, values)
