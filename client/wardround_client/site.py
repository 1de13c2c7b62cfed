"""One site at work: its cohort, its model, and what it answers to each request.

The site knows the study beforehand; a request that names another study is refused. K = classes,
L = metric counts, S = summed statistics.
"""

import dataclasses
import time
from collections.abc import Callable
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
from wardround_client.prepared import prepare
from wardround_client.training import (
    Examples,
    LocalTraining,
    Protection,
    evaluate,
    local_seed,
    train,
)
from wardround_shared import __version__
from wardround_shared.errors import ProtocolError
from wardround_shared.evaluation import metrics
from wardround_shared.messages import Floats, GlobalModel, Greeting, Header
from wardround_shared.models import build_model, unflatten_
from wardround_shared.preprocessing import Recipe
from wardround_shared.privacy.noise import NoiseSource
from wardround_shared.study import Study


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What the sites that one process serves have in common.

    Attributes:
        seed: of the shuffling; noise never depends on it.
        noise: where DP noise and Poisson sampling come from.
    """

    study: Study
    device: torch.device
    seed: int
    noise: NoiseSource


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
        if received.numel() != sum(p.numel() for p in module.parameters()):
            raise ProtocolError(
                f"The received model has {received.numel()} parameters, the study's model "
                f"{sum(p.numel() for p in module.parameters())}."
            )
        unflatten_(module, received)
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
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._cohort = cohort
        self._workplace = workplace
        self._models = models
        self._journal = journal
        self._clock = clock
        self._recipe = Recipe(workplace.study)
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

    def class_counts(self) -> RecordDict:
        """Training examples of each class [K]."""
        classes = len(self._workplace.study.study.classes)
        counts = np.bincount(self._cohort.labels[self._cohort.train], minlength=classes)
        return outbound.sums(counts.astype(np.float64))

    def statistics(self, model: GlobalModel) -> RecordDict:
        """Sums over the training split that the next fitted preprocessing step needs [S]."""
        training_split = tuple(array[self._cohort.train] for array in self._cohort.arrays)
        return outbound.sums(self._recipe.statistics(training_split, model.fitted))

    def train(self, header: Header, model: GlobalModel, state: RecordDict) -> RecordDict:
        """Evaluate the received model, train it, and form the one vector that leaves.

        Args:
            header: of the request.
            model: the global model.
            state: the node's own state; holds the privacy account.
        """
        started = self._clock()
        study, cohort = self._workplace.study, self._cohort
        module, examples = self._load(model)
        counts = self._validate(module, examples)
        evaluated = self._clock()
        protection, spent = self._protect(state)
        settings = LocalTraining(
            training=study.training,
            round=header.round,
            seed=local_seed(self._workplace.seed, cohort.site, header.round),
            class_counts=model.class_counts,
            augmentation=self._recipe.augmentation(),
            protection=protection,
        )
        delta = train(module, examples, torch.from_numpy(cohort.train), settings)
        answer = outbound.update(delta=delta, weight=len(cohort.train), counts=counts)
        self._write(
            header,
            counts,
            evaluation_seconds=evaluated - started,
            training_seconds=self._clock() - evaluated,
            privacy=spent,
        )
        return answer

    def evaluate(self, header: Header, model: GlobalModel) -> RecordDict:
        """Metric counts of the received model on the validation split."""
        started = self._clock()
        counts = self._validate(*self._load(model))
        self._write(
            header,
            counts,
            final_counts=counts.tolist(),
            evaluation_seconds=self._clock() - started,
        )
        return outbound.sums(counts)

    # --- parts -------------------------------------------------------------------------------

    def _load(self, model: GlobalModel) -> tuple[nn.Module, Examples]:
        module = self._models.load(self._shapes, model)
        parts = prepare(self._cohort, self._recipe, model.fitted)
        device = self._workplace.device
        examples = Examples(
            parts=tuple(torch.from_numpy(part).to(device) for part in parts),
            labels=torch.from_numpy(self._cohort.labels).to(device),
        )
        return module, examples

    def _validate(self, module: nn.Module, examples: Examples) -> Floats:
        index = torch.from_numpy(self._cohort.validation)
        return evaluate(module, examples, index, len(self._workplace.study.study.classes))

    def _protect(self, state: RecordDict) -> tuple[Protection | None, dict[str, Any] | None]:
        """Take the round's cost off the account; what is spent from now on goes to the journal."""
        privacy = self._workplace.study.privacy
        if not privacy.private:
            return None, None
        account = Account(state, self._workplace.study, len(self._cohort.train))
        protection = Protection(
            plan=account.spend_round(), privacy=privacy, noise=self._workplace.noise
        )
        return protection, dataclasses.asdict(account.spent)

    def _write(self, header: Header, counts: Floats, **line: Any) -> None:
        classes = self._workplace.study.study.classes
        measured = metrics(counts, classes) if len(self._cohort.validation) else {}
        self._journal.write(
            run=header.run, round=header.round, site=self._cohort.site, metrics=measured, **line
        )
