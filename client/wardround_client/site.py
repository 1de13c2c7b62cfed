"""One site at work: its cohort, its model, and what it answers to each request.

The site knows the study beforehand; a request that names another study is refused. K = classes,
L = metric counts, S = summed statistics.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flwr.app import RecordDict
from numpy.typing import NDArray
from torch import Tensor, nn

from wardround_client import outbound
from wardround_client.account import Account, Reservation
from wardround_client.answering import Answering
from wardround_client.answers import AnsweredOnce, AnswerStore, Formed
from wardround_client.cohort import Cohort
from wardround_client.control import ControlPart, Drift
from wardround_client.journal import Journal
from wardround_client.masking import MaskedAnswers
from wardround_client.outbound import Masking
from wardround_client.personal import PersonalPart
from wardround_client.personal_files import PersonalFiles
from wardround_client.prepared import prepare, prepared_key
from wardround_client.progress import PREPARING, Progress, unwatched
from wardround_client.received import Expected, Request
from wardround_client.rounds import RoundPayment
from wardround_client.run_state import RunState
from wardround_client.secure import SecureMember
from wardround_client.training import (
    Examples,
    LocalTraining,
    Protection,
    evaluate,
    local_seed,
    train,
)
from wardround_client.workplace import Models, Workplace
from wardround_shared import __version__
from wardround_shared.errors import PrivacyError, ProtocolError
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
from wardround_shared.models import flatten, unflatten_
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import Training
from wardround_shared.tasks import task_of


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
        answers: AnswerStore | None = None,
        state: RunState | None = None,
        personal: PersonalFiles | None = None,
        progress: Progress = unwatched,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """A site that takes part in a study.

        Args:
            cohort: its data.
            workplace: what it has in common with others of this process.
            models: of this process.
            journal: of the site and run.
            account: its way to the ledger; None only if the study is not private.
            member: its part in secure aggregation, read anew for each request.
            answers: what it remembers of its answers in the one run that it takes part in; without
                it a question is answered once, which is enough where no process dies.
            state: what it keeps of that run; without it the state of the node that comes with
                each request.
            personal: where it keeps its own part of the model, and beside it its control variate;
                None only if the study has neither.
            progress: is told how far long work has got.
            clock: seconds, for the journal.

        Raises:
            ValueError: one of answers and state without the other: a site that answers again has to
                know, after a crash, which round was the last.
        """
        if (answers is None) != (state is None):
            raise ValueError("a site keeps both its answers and the state of the run, or neither")
        self._cohort = cohort
        self._workplace = workplace
        self._models = models
        self._journal = journal
        self._account = account
        self._state = state
        self._personal = PersonalPart(workplace.study, personal)
        self._control = ControlPart(workplace.study, site=cohort.site, files=personal)
        self._progress = progress
        self._clock = clock
        self._recipe = Recipe(workplace.study)
        self._task = task_of(workplace.study)
        # Kept from round to round: mapped files, or tensors on the GPU.
        self._examples: tuple[str, Examples] | None = None
        self._shapes = tuple(tuple(array.shape[1:]) for array in cohort.arrays)
        self._expected = Expected(workplace.study, self._recipe, self._shapes)
        self._masked = MaskedAnswers(
            study=workplace.study,
            site=cohort.site,
            member=member,
            rounding_seed=workplace.seed if workplace.repeatable else None,
        )
        self._answers = AnsweredOnce() if answers is None else answers
        self._answering = Answering(
            site=cohort.site,
            secure=workplace.study.aggregation.secure,
            expected=self._expected,
            masked=self._masked,
            answers=self._answers,
        )

    def check(self, header: Header) -> None:
        """Refuse a request for any other study, or of a run that this site does not take part in.

        Raises:
            ProtocolError: the study's hash is not the one that this site knows, or the run is
                another one.
        """
        if header.study_id != self._workplace.study.study_id:
            raise ProtocolError(
                "The server asks for a study that this site has not agreed to "
                f"(id {header.study_id[:12]})."
            )
        self._answers.require_run(header.run)

    def greet(self, run: str, state: RecordDict) -> RecordDict:
        """Name, software and the shape of an example, if the study's plan fits the ledger.

        Args:
            run: name of the run.
            state: the node's own; keeps the privacy plan if this site has no other place.

        Raises:
            PrivacyError: it does not fit, or there is no ledger.
            ProtocolError: this site does not take part in that run.
        """
        self._answers.require_run(run)
        if self._workplace.study.privacy.private:
            self._accountant().admit(self._kept(state), run)
        return outbound.greeting(
            Greeting(site=self._cohort.site, software=__version__, shapes=self._shapes)
        )

    def class_counts(self, request: Request) -> RecordDict:
        """Training examples, or steps of examples, of each class [K].

        Raises:
            ProtocolError: the study does not need them.
        """
        if self._workplace.study.training.class_weights == "none":
            raise ProtocolError("The server asks for class counts, which this study does not need.")
        classes = len(self._workplace.study.study.classes)

        def work(masking: Masking | None) -> Formed:
            counts = self._task.tally(self._cohort.targets[self._cohort.train])
            return _sums(masking, CLASS_COUNTS, np.array([*counts.values()], dtype=np.float64))

        return self._answering.answer(CLASS_COUNTS, request, work, length=classes)

    def statistics(self, request: Request, model: GlobalModel) -> RecordDict:
        """Sums over the training split that the next fitted preprocessing step needs [S]."""
        cohort, fitted = self._cohort, model.fitted
        self._expected.check_model(STATISTICS, model)
        length = self._recipe.statistics_length(self._shapes, fitted)

        def work(masking: Masking | None) -> Formed:
            sums = self._recipe.statistics(cohort.arrays, fitted, index=cohort.train)
            return _sums(masking, STATISTICS, sums)

        return self._answering.answer(STATISTICS, request, work, length=length, fitted=fitted)

    def train(self, request: Request, model: GlobalModel, state: RecordDict) -> RecordDict:
        """Evaluate the received model, train it, and form the one vector that leaves.

        Args:
            request: as it came.
            model: the global model.
            state: the node's own; holds the last round and the privacy plan if this site has no
                other place.

        Raises:
            ProtocolError: this round or a later one was trained before.
            BudgetError: the ledger has no room for the round; nothing is trained.
        """
        self._expected.check_model(TRAIN, model)
        module = self._models.load(self._shapes, model)
        # Before it is paid for: with a damaged part of its own a site does not train.
        own = self._personal.begin(module, request.header)
        drift = self._control.begin(request.header, model)
        payment = self._payment(request.header, state)
        return self._answering.answer(
            TRAIN,
            request,
            lambda masking: self._trained(
                masking,
                header=request.header,
                model=model,
                module=module,
                own=own,
                drift=drift,
                payment=payment,
            ),
            length=model.parameters.size,
            fitted=model.fitted,
            payment=payment,
        )

    def evaluate(self, request: Request, model: GlobalModel, state: RecordDict) -> RecordDict:
        """Metric counts of the received model on the validation split.

        Where layers are the site's own, they are in the model that is measured. Then the site keeps
        the model of its own that it has trained in the rounds, or
        fine-tunes the model for itself, if the study says so, and pays for it as for a round.

        Args:
            request: as it came.
            model: the final global model.
            state: see `train`.

        Raises:
            BudgetError: the ledger has no room for the fine-tuning; nothing is measured either.
        """
        self._expected.check_model(EVALUATE, model)
        module = self._models.load(self._shapes, model)
        payment = None
        if self._personal.fine_tuning is not None:
            payment = self._payment(request.header, state)
        return self._answering.answer(
            EVALUATE,
            request,
            lambda masking: self._measured(request.header, model, module, payment, masking),
            length=self._task.counts_length,
            fitted=model.fitted,
            payment=payment,
        )

    # --- exchanges of secure aggregation that need no data --------------------------------------

    def set_up(self, request: Request) -> RecordDict:
        """Keys, or shares, for the next secure sum."""
        with self._answering.turn(request):
            return add_secure(RecordDict(), self._masked.member().set_up(request.secure))

    def confirm(self, request: Request) -> RecordDict:
        """Signature over the survivors of a secure sum, and shares for the next."""
        with self._answering.turn(request):
            return add_secure(RecordDict(), self._masked.member().confirm(request.secure))

    def unmask(self, request: Request) -> RecordDict:
        """One share of each site of a secure sum."""
        with self._answering.turn(request):
            return add_secure(RecordDict(), self._masked.member().unmask(request.secure))

    # --- parts -------------------------------------------------------------------------------

    def _kept(self, state: RecordDict) -> RunState:
        return state if self._state is None else self._state

    def _payment(self, header: Header, state: RecordDict) -> RoundPayment:
        return RoundPayment(
            account=self._accountant() if self._workplace.study.privacy.private else None,
            state=self._kept(state),
            header=header,
            repeats=self._answers.repeats,
        )

    def _trained(
        self,
        masking: Masking | None,
        *,
        header: Header,
        model: GlobalModel,
        module: nn.Module,
        own: Tensor | None,
        drift: Drift | None,
        payment: RoundPayment,
    ) -> Formed:
        """Evaluate and train; `module` holds the received model, with the site's own layers.

        In the end it holds the site's own model, if that is another one.
        """
        started = self._clock()
        examples = self._prepared(model.fitted)
        counts = self._validate(module, examples)
        evaluated = self._clock()
        study = self._workplace.study
        settings = self._settings(header, model, study.training, payment.reservation)
        if drift is not None:
            correction = torch.from_numpy(drift.correction).to(self._workplace.device)
            settings = replace(settings, correction=correction)
        if own is not None:
            steps = None if payment.reservation is None else payment.reservation.own_steps
            beside = self._personal.beside(
                settings, received=flatten(module), site=self._cohort.site, steps=steps
            )
        index = torch.from_numpy(self._cohort.train)
        change = train(module, examples, index, settings)
        delta = self._personal.shared(module, change)
        if own is not None:
            unflatten_(module, own)
            train(module, examples, index, beside)
        self._write(
            header,
            counts,
            evaluation_seconds=evaluated - started,
            training_seconds=self._clock() - evaluated,
        )
        formed = _update(masking, delta, len(self._cohort.train), counts)
        # Before the answer is stored: afterwards nobody would train this round again.
        self._personal.keep(module, header)
        if drift is not None:
            self._control.keep(drift, delta, header)
        return formed

    def _measured(
        self,
        header: Header,
        model: GlobalModel,
        module: nn.Module,
        payment: RoundPayment | None,
        masking: Masking | None,
    ) -> Formed:
        """Evaluate; `module` holds the received model, and the site's own in the end."""
        started = self._clock()
        examples = self._prepared(model.fitted)
        counts = shared = self._validate(module, examples)
        if self._personal.has_layers:
            self._personal.put_in_(module, header)
            counts = self._validate(module, examples)
        line = {"final_counts": counts.tolist(), "evaluation_seconds": self._clock() - started}
        if self._personal.any:
            own = self._own_model(header, model, module, payment)
            line |= {
                "shared_counts": shared.tolist(),
                "own_counts": (counts if own is None else own).tolist(),
                "training_seconds": self._clock() - started - line["evaluation_seconds"],
            }
        self._write(header, counts, **line)
        # Nothing of the site's own training is in what leaves.
        return _sums(masking, EVALUATE, counts)

    def _own_model(
        self,
        header: Header,
        model: GlobalModel,
        module: nn.Module,
        payment: RoundPayment | None,
    ) -> Floats | None:
        """Make the site's own model of the final one, and keep it; its counts, if it has changed.

        Own layers are in `module` already.
        """
        training, counts = self._personal.fine_tuning, None
        if training is not None and payment is not None:
            examples = self._prepared(model.fitted)
            settings = self._settings(header, model, training, payment.reservation)
            train(module, examples, torch.from_numpy(self._cohort.train), settings)
            counts = self._validate(module, examples)
        if self._personal.has_model:
            self._personal.put_in_(module, header)
            counts = self._validate(module, self._prepared(model.fitted))
        self._personal.keep_model(module, header, fitted=model.fitted, shapes=self._shapes)
        return counts

    def _settings(
        self,
        header: Header,
        model: GlobalModel,
        training: Training,
        reservation: Reservation | None,
    ) -> LocalTraining:
        return LocalTraining(
            task=self._task,
            training=training,
            round=header.round,
            seed=local_seed(self._workplace.seed, self._cohort.site, header.round),
            class_counts=model.class_counts,
            augmentation=self._recipe.augmentation(),
            protection=self._protection(reservation, header),
            progress=self._progress,
        )

    def _prepared(self, fitted: Fitted) -> Examples:
        key = prepared_key(self._recipe, fitted)
        if self._examples is None or self._examples[0] != key:
            self._progress(PREPARING, 0, 1)
            parts = prepare(self._cohort, self._recipe, fitted)
            device = self._workplace.device
            examples = Examples(
                parts=tuple(torch.from_numpy(part).to(device) for part in parts),
                targets=torch.from_numpy(self._cohort.targets).to(device),
                patients=torch.from_numpy(self._cohort.patients),
            )
            self._examples = (key, examples)
            self._progress(PREPARING, 1, 1)
        return self._examples[1]

    def _validate(self, module: nn.Module, examples: Examples) -> Floats:
        index = torch.from_numpy(self._cohort.validation)
        return evaluate(module, examples, index, self._task, self._progress)

    def _accountant(self) -> Account:
        if self._account is None:
            raise PrivacyError(
                "This site has no privacy ledger, and takes part in no private study without one."
            )
        return self._account

    def _protection(self, reservation: Reservation | None, header: Header) -> Protection | None:
        if reservation is None:
            return None
        return Protection(
            plan=reservation.plan,
            steps=reservation.steps,
            privacy=self._workplace.study.privacy,
            noise=self._workplace.noise_of(self._cohort.site, header.round),
        )

    def _write(self, header: Header, counts: Floats, **line: Any) -> None:
        measured = self._task.metrics(counts) if len(self._cohort.validation) else {}
        self._journal.write(
            run=header.run, round=header.round, site=self._cohort.site, metrics=measured, **line
        )


def _update(
    masking: Masking | None, delta: NDArray[np.float32], weight: int, counts: Floats
) -> Formed:
    if masking is None:
        return outbound.update(delta=delta, weight=weight, counts=counts)
    return outbound.masked_update(masking, delta=delta, weight=weight, counts=counts)


def _sums(masking: Masking | None, message_type: str, values: Floats) -> Formed:
    if masking is None:
        return outbound.sums(values)
    return outbound.masked_sums(masking, message_type, values)
