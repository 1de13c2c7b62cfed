"""Three hospitals with secure aggregation and a server that a test scripts, message by message."""

from pathlib import Path

import numpy as np
import torch
from flwr.app import RecordDict

from wardround_client.account import Account
from wardround_client.cohort import build_cohorts
from wardround_client.journal import Journal
from wardround_client.ledger import Ledger
from wardround_client.policy import Policy
from wardround_client.received import Request
from wardround_client.secure import SecureMember, write_identity
from wardround_client.site import Site
from wardround_client.workplace import Models, Workplace
from wardround_shared.evaluation import counts_length
from wardround_shared.messages import (
    ADVERTISEMENT,
    ADVERTISEMENTS,
    CLASS_COUNTS,
    EVALUATE,
    KEYS_REQUEST,
    MASK_REQUEST,
    MASKED_VECTOR,
    SEALED_SHARES,
    STATISTICS,
    TRAIN,
    GlobalModel,
    Header,
    read_secure,
    request_digest,
)
from wardround_shared.models import build_model, flatten
from wardround_shared.preprocessing import Recipe
from wardround_shared.privacy.noise import InjectedNoise
from wardround_shared.secure_aggregation.keys import Identity
from wardround_shared.secure_aggregation.roster import Roster, Terms
from wardround_shared.secure_aggregation.server import SecureServer
from wardround_shared.secure_aggregation.wire import (
    Advertisement,
    MaskedVector,
    SealedShares,
    decode,
    encode,
)
from wardround_shared.study import load_study
from wardround_shared.vectors import sums_layout, update_layout

RUN = "run-1"
ROUNDS = 3
ME = "north"
KINDS = (CLASS_COUNTS, STATISTICS, TRAIN, EVALUATE)
ROUND_OF = {CLASS_COUNTS: 0, STATISTICS: 0, TRAIN: 1, EVALUATE: ROUNDS + 1}

_OVERRIDES = (
    "aggregation.secure=true",
    "aggregation.minimum-sites=3",
    "training.class-weights=balanced",
    "privacy.mechanism=none",
)


class SecureHospitals:
    """The sites of a small study, each with its part in the protocol on disk."""

    def __init__(self, study_file: Path, data: Path, folder: Path, *overrides: str):
        self.study = load_study(study_file, (*_OVERRIDES, *overrides))
        cohorts = build_cohorts(self.study, data, cache=folder / "cache", partition=None)
        self.cohorts = {cohort.site: cohort for cohort in cohorts.cohorts}
        self.folders = {name: folder / "secure" / name for name in self.cohorts}
        identities = {}
        for number, (name, place) in enumerate(self.folders.items()):
            private = bytes([number + 1]) * 32
            write_identity(place, private)
            identities[name] = Identity(private).public
        self.roster = Roster.of(identities)
        self.terms = Terms(study_id=self.study.study_id, run=RUN, roster=self.roster)
        self.server = SecureServer(terms=self.terms)
        self.recipe = Recipe(self.study)
        self.ledgers = {}
        self.sites = {name: self._site(name, folder) for name in self.cohorts}
        self.shapes = tuple(tuple(a.shape[1:]) for a in self.cohorts[ME].arrays)
        self.models = self._models()
        self.state = RecordDict()

    def member(self, name: str = ME) -> SecureMember:
        return SecureMember(
            self.folders[name], terms=self.terms, site=name, smallest_cohort=3, durable=False
        )

    def _site(self, name: str, folder: Path) -> Site:
        workplace = Workplace(
            study=self.study,
            device=torch.device("cpu"),
            seed=0,
            noise_of=lambda _site, number: InjectedNoise(number),
        )
        account = None
        if self.study.privacy.private:
            self.ledgers[name] = Ledger.create(folder / "homes" / name, site=name, durable=False)
            account = Account(
                study=self.study,
                cohort=self.cohorts[name],
                ledger=self.ledgers[name],
                policy=Policy.of(epsilon=8.0, delta=1e-5),
                data_set="clinic",
            )
        return Site(
            cohort=self.cohorts[name],
            workplace=workplace,
            models=Models(workplace),
            journal=Journal(folder / "journals" / name),
            account=account,
            member=lambda: self.member(name),
        )

    def _models(self) -> dict[str, GlobalModel]:
        """An honest model for each kind of request."""
        fitted = ()
        partly = []
        for _ in self.recipe.needs_fit:
            partly.append(fitted)
            sums = self.recipe.statistics(self.cohorts[ME].arrays, fitted)
            fitted = (*fitted, self.recipe.fit(sums, fitted))
        module = build_model(self.study.model, self.recipe.output_shapes(self.shapes), 2)
        parameters = flatten(module).numpy()

        def model(constants):
            return GlobalModel(
                parameters=parameters, fitted=constants, class_counts=np.array([50.0, 50.0])
            )

        return {
            CLASS_COUNTS: model(()),
            STATISTICS: model(partly[1]),
            TRAIN: model(fitted),
            EVALUATE: model(fitted),
        }

    # --- the server ---------------------------------------------------------------------------

    def header(self, kind: str, number: int | None = None, run: str = RUN) -> Header:
        number = ROUND_OF[kind] if number is None else number
        return Header(study_id=self.study.study_id, run=run, round=number)

    def layout(self, kind: str, model: GlobalModel):
        sites = len(self.roster)
        if kind == TRAIN:
            return update_layout(self.study, parameters=model.parameters.size, sites=sites)
        length = {CLASS_COUNTS: 2, EVALUATE: counts_length(2)}.get(kind)
        if length is None:
            length = self.recipe.statistics_length(self.shapes, model.fitted)
        return sums_layout(self.study, kind, length=length, sites=sites)

    def set_up(self) -> None:
        """Keys and shares for the next secure sum."""
        header = self.header(CLASS_COUNTS)

        def ask(name, part, sent, got):
            request = Request(header=header, secure={part: encode(sent)}, digest=b"")
            return read_secure(self.sites[name].set_up(request))[got]

        asked = self.server.open_setup()
        for name in self.sites:
            answer = ask(name, KEYS_REQUEST, asked, ADVERTISEMENT)
            self.server.take_keys(name, decode(answer, Advertisement))
        advertised = self.server.close_keys()
        for name in self.sites:
            answer = ask(name, ADVERTISEMENTS, advertised, SEALED_SHARES)
            self.server.take_shares(name, decode(answer, SealedShares))

    def requests(
        self, kind: str, *, model: GlobalModel | None = None, header: Header | None = None
    ) -> dict[str, Request]:
        """After a set-up, an honest request for each site, with this model and header."""
        model, header = model or self.models[kind], header or self.header(kind)
        digest = request_digest(kind, header, model)
        masks = self.server.open_round(layout=self.layout(kind, model), model_digest=digest)
        return {
            name: Request(header=header, secure={MASK_REQUEST: encode(mask)}, digest=digest)
            for name, mask in masks.items()
        }

    def ask(self, kind: str, request: Request, *, model: GlobalModel | None = None, name=ME):
        site, model = self.sites[name], model or self.models[kind]
        if kind == CLASS_COUNTS:
            return site.class_counts(request)
        if kind == STATISTICS:
            return site.statistics(request, model)
        if kind == TRAIN:
            return site.train(request, model, self.state)
        return site.evaluate(request, model, RecordDict())

    def answered(self, content: RecordDict) -> MaskedVector:
        """The vector in an answer, which holds nothing else."""
        assert list(content) == ["secure"]
        return decode(read_secure(content)[MASKED_VECTOR], MaskedVector)
