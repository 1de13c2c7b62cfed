"""One site at work: its cohort, its model, and what it answers to each request.

The site knows the study beforehand; a request that names another study is refused. K = classes,
L = metric counts, S = summed statistics.
"""

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import RecordDict
from torch import nn

from wardround_client import outbound
from wardround_client.account import Account
from wardround_client.cohort import Cohort
from wardround_client.journal import Journal
from wardround_client.prepared import prepare, prepared_key
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
from wardround_shared.evaluation import metrics
from wardround_shared.messages import (
    CLASS_COUNTS,
    EVALUATE,
    MASK_REQUEST,
    STATISTICS,
    TRAIN,
    Floats,
    GlobalModel,
    Greeting,
    Header,
    add_secure,
)
from wardround_shared.models import build_model, parameter_count, unflatten_
from wardround_shared.preprocessing import Recipe
from wardround_shared.privacy.noise import NoiseSource
from wardround_shared.secure_aggregation import RandomBytes
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


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as a site received it, apart from the model.

    Attributes:
        secure: messages of secure aggregation that came with it.
        digest: SHA-256 over all that is not secure aggregation.
    """

    header: Header
    secure: Mapping[str, bytes]
    digest: bytes


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
        member: Callable[[], SecureMember] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._cohort = cohort
        self._workplace = workplace
        self._models = models
        self._journal = journal
        self._member = member
        self._clock = clock
        self._recipe = Recipe(workplace.study)
        # Kept from round to round: mapped files, or tensors on the GPU.
        self._examples: tuple[str, Examples] | None = None
        self._shapes = tuple(tuple(array.shape[1:]) for array in cohort.arrays)

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

    def greet(self) -> RecordDict:
        """Name, software and the shape of an example."""
        return outbound.greeting(
            Greeting(site=self._cohort.site, software=__version__, shapes=self._shapes)
        )

    def class_counts(self, request: Request) -> RecordDict:
        """Training examples of each class [K]."""
        classes = len(self._workplace.study.study.classes)
        counts = np.bincount(self._cohort.labels[self._cohort.train], minlength=classes)
        return self._sums(CLASS_COUNTS, request, counts.astype(np.float64))

    def statistics(self, request: Request, model: GlobalModel) -> RecordDict:
        """Sums over the training split that the next fitted preprocessing step needs [S]."""
        cohort = self._cohort
        sums = self._recipe.statistics(cohort.arrays, model.fitted, index=cohort.train)
        return self._sums(STATISTICS, request, sums)

    def train(self, request: Request, model: GlobalModel, state: RecordDict) -> RecordDict:
        """Evaluate the received model, train it, and form the one vector that leaves.

        Args:
            request: as it came.
            model: the global model.
            state: the node's own state; holds the last round and the privacy account.

        Raises:
            ProtocolError: this round or a later one was trained before.
        """
        masking = self._masking(TRAIN, request)
        started = self._clock()
        study, cohort, header = self._workplace.study, self._cohort, request.header
        module, examples = self._load(model)
        begin_round(state, header.round)
        counts = self._validate(module, examples)
        evaluated = self._clock()
        protection, spent = self._protect(header, state)
        settings = LocalTraining(
            training=study.training,
            round=header.round,
            seed=local_seed(self._workplace.seed, cohort.site, header.round),
            class_counts=model.class_counts,
            augmentation=self._recipe.augmentation(),
            protection=protection,
        )
        delta = train(module, examples, torch.from_numpy(cohort.train), settings)
        trained = self._clock()
        self._write(
            header,
            counts,
            evaluation_seconds=evaluated - started,
            training_seconds=trained - evaluated,
            privacy=spent,
        )
        weight = len(cohort.train)
        if masking is None:
            return outbound.update(delta=delta, weight=weight, counts=counts)
        return outbound.masked_update(masking, delta=delta, weight=weight, counts=counts)

    def evaluate(self, request: Request, model: GlobalModel) -> RecordDict:
        """Metric counts of the received model on the validation split."""
        started = self._clock()
        counts = self._validate(*self._load(model))
        self._write(
            request.header,
            counts,
            final_counts=counts.tolist(),
            evaluation_seconds=self._clock() - started,
        )
        return self._sums(EVALUATE, request, counts)

    # --- exchanges of secure aggregation that need no data --------------------------------------

    def set_up(self, request: Request) -> RecordDict:
        """Keys, or shares, for the next secure sum."""
        return add_secure(RecordDict(), self._secure().set_up(request.secure))

    def confirm(self, request: Request) -> RecordDict:
        """Signature over the survivors of a secure sum, and shares for the next."""
        return add_secure(RecordDict(), self._secure().confirm(request.secure))

    def unmask(self, request: Request) -> RecordDict:
        """One share of each site of a secure sum."""
        return add_secure(RecordDict(), self._secure().unmask(request.secure))

    # --- parts -------------------------------------------------------------------------------

    def _secure(self) -> SecureMember:
        """Read anew for each request: another process may have answered the last one."""
        if self._member is None:
            raise PrivacyError("This site does not take part in secure aggregation in this run.")
        return self._member()

    def _rounding(self, message_type: str, round_number: int) -> RandomBytes:
        """Where the chances of stochastic rounding come from in one answer."""
        if not self._workplace.repeatable:
            return os.urandom
        label = (
            f"{message_type}/{local_seed(self._workplace.seed, self._cohort.site, round_number)}"
        )
        return lambda size: hashlib.shake_256(f"wardround/rounding/{label}".encode()).digest(size)

    def _masking(self, message_type: str, request: Request) -> outbound.Masking | None:
        """How this answer is masked; None only if the study says that it is sent in the clear.

        Raises:
            PrivacyError: the study demands secure aggregation and the request does not bring it.
        """
        if not self._workplace.study.aggregation.secure:
            return None
        if MASK_REQUEST not in request.secure:
            raise PrivacyError(
                "The server asks for an answer in the clear; the study demands secure aggregation."
            )
        return outbound.Masking(
            study=self._workplace.study,
            member=self._secure(),
            rounding=self._rounding(message_type, request.header.round),
            received=request.secure,
            digest=request.digest,
        )

    def _sums(self, message_type: str, request: Request, values: Floats) -> RecordDict:
        masking = self._masking(message_type, request)
        if masking is None:
            return outbound.sums(values)
        return outbound.masked_sums(masking, message_type, values)

    def _load(self, model: GlobalModel) -> tuple[nn.Module, Examples]:
        module = self._models.load(self._shapes, model)
        key = prepared_key(self._recipe, model.fitted)
        if self._examples is None or self._examples[0] != key:
            parts = prepare(self._cohort, self._recipe, model.fitted)
            device = self._workplace.device
            examples = Examples(
                parts=tuple(torch.from_numpy(part).to(device) for part in parts),
                labels=torch.from_numpy(self._cohort.labels).to(device),
            )
            self._examples = (key, examples)
        return module, self._examples[1]

    def _validate(self, module: nn.Module, examples: Examples) -> Floats:
        index = torch.from_numpy(self._cohort.validation)
        return evaluate(module, examples, index, len(self._workplace.study.study.classes))

    def _protect(
        self, header: Header, state: RecordDict
    ) -> tuple[Protection | None, dict[str, Any] | None]:
        """Take the round's cost off the account; what is spent from now on goes to the journal."""
        privacy = self._workplace.study.privacy
        if not privacy.private:
            return None, None
        account = Account(state, self._workplace.study, len(self._cohort.train))
        noise = self._workplace.noise_of(self._cohort.site, header.round)
        protection = Protection(plan=account.spend_round(), privacy=privacy, noise=noise)
        return protection, dataclasses.asdict(account.spent)

    def _write(self, header: Header, counts: Floats, **line: Any) -> None:
        classes = self._workplace.study.study.classes
        measured = metrics(counts, classes) if len(self._cohort.validation) else {}
        self._journal.write(
            run=header.run, round=header.round, site=self._cohort.site, metrics=measured, **line
        )
