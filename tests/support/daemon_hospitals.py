"""A hospital whose site can be stopped anywhere and started again from what is on its disk."""

import hashlib
import json
import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from flwr.app import RecordDict

from wardround_client import site as site_module
from wardround_client.account import Account
from wardround_client.answer_files import ANSWERS, AnswerFiles
from wardround_client.cohort import build_cohorts
from wardround_client.journal import Journal
from wardround_client.ledger import Ledger, store
from wardround_client.personal_files import PERSONAL, PersonalFiles
from wardround_client.policy import Policy
from wardround_client.received import Request
from wardround_client.run_state import STATE, StateFile
from wardround_client.site import Site
from wardround_client.workplace import Models, Workplace
from wardround_shared.messages import (
    CLASS_COUNTS,
    EVALUATE,
    STATISTICS,
    TRAIN,
    GlobalModel,
    Header,
    request_digest,
)
from wardround_shared.models import build_model, flatten
from wardround_shared.preprocessing import Recipe
from wardround_shared.privacy.noise import InjectedNoise
from wardround_shared.study import load_study

RUN = "run-1"
ROUNDS = 3
ROUND_OF = {CLASS_COUNTS: 0, STATISTICS: 0, TRAIN: 1, EVALUATE: ROUNDS + 1}


class DaemonHospital:
    """The site `north` of the small study in a home of its own, answering in the clear."""

    def __init__(self, study_file: Path, data: Path, folder: Path, *overrides: str, home=None):
        self.study = load_study(study_file, ("training.class-weights=balanced", *overrides))
        cohorts = build_cohorts(self.study, data, cache=folder / "cache", partition=None)
        self.cohort = cohorts.cohorts[0]
        self.models = self._models()
        self.folder = folder
        self.progress: list[tuple[str, int, int]] = []
        if home is None:
            self.move("home-1")
        else:
            self._lives_in(home)
            self.start()

    def move(self, name: str) -> None:
        """Another home, where nothing has happened yet but the site's greeting."""
        self._lives_in(name)
        Ledger.create(self.home, site="north", durable=False)
        self.start()
        plan = self.folder / "plan.json"
        if plan.is_file():  # solved once for all homes
            self.run.mkdir(parents=True)
            (self.run / STATE).write_bytes(plan.read_bytes())
        self.site.greet(RUN, RecordDict())
        if (self.run / STATE).is_file():
            plan.write_bytes((self.run / STATE).read_bytes())

    def _lives_in(self, name: str) -> None:
        self.home = self.folder / name
        self.run = self.home / "runs" / RUN

    def start(self) -> None:
        """The site as it comes up again, from what is on its disk."""
        workplace = Workplace(
            study=self.study,
            device=torch.device("cpu"),
            seed=0,
            noise_of=lambda _site, number: InjectedNoise(number),
        )
        self.ledger = Ledger.open(self.home, site="north", durable=False)
        account = Account(
            study=self.study,
            cohort=self.cohort,
            ledger=self.ledger,
            policy=Policy.of(epsilon=8.0, delta=1e-5),
            data_set="clinic",
        )
        of_run = {"run": RUN, "study_id": self.study.study_id}
        self.site = Site(
            cohort=self.cohort,
            workplace=workplace,
            models=Models(workplace),
            journal=Journal(self.run),
            account=account if self.study.privacy.private else None,
            answers=AnswerFiles(folder=self.run / ANSWERS, **of_run),
            state=StateFile(file=self.run / STATE, **of_run),
            personal=PersonalFiles(folder=self.run / PERSONAL, **of_run),
            progress=lambda *told: self.progress.append(told),
        )

    def _models(self) -> dict[str, GlobalModel]:
        recipe, arrays, fitted, partly = Recipe(self.study), self.cohort.arrays, (), []
        for _ in recipe.needs_fit:
            partly.append(fitted)
            fitted = (*fitted, recipe.fit(recipe.statistics(arrays, fitted), fitted))
        torch.manual_seed(7)
        shapes = recipe.output_shapes([array.shape[1:] for array in arrays])
        parameters = flatten(build_model(self.study.model, shapes, 2)).numpy()

        def model(constants):
            return GlobalModel(
                parameters=parameters, fitted=constants, class_counts=np.array([50.0, 50.0])
            )

        return {
            CLASS_COUNTS: model(()),
            STATISTICS: model(partly[-1]),
            TRAIN: model(fitted),
            EVALUATE: model(fitted),
        }

    def ask(self, kind: str, *, number: int | None = None, model=None, run: str = RUN):
        """The digest of what leaves the site."""
        model, number = model or self.models[kind], ROUND_OF[kind] if number is None else number
        header = Header(study_id=self.study.study_id, run=run, round=number)
        self.site.check(header)
        request = Request(header=header, secure={}, digest=request_digest(kind, header, model))
        if kind == CLASS_COUNTS:
            return digest_of(self.site.class_counts(request))
        if kind == STATISTICS:
            return digest_of(self.site.statistics(request, model))
        if kind == TRAIN:
            return digest_of(self.site.train(request, model, RecordDict()))
        return digest_of(self.site.evaluate(request, model, RecordDict()))

    def states(self) -> list[tuple[int, str]]:
        """Round and state of every reservation."""
        entries = Ledger.open(self.home, site="north").entries()
        return [(entry.purpose.round, entry.state) for entry in entries]

    def answers(self) -> list[Path]:
        return sorted((self.run / ANSWERS).glob("*.answer"))


def digest_of(content: RecordDict) -> str:
    hashed = hashlib.sha256()
    for name, record in content.items():
        for key, array in record.items():
            hashed.update(json.dumps([name, key, array.dtype, list(array.shape)]).encode())
            hashed.update(array.data)
    return hashed.hexdigest()


class Killed(BaseException):
    """The process ends here; no `except Exception` hears of it."""


STEPS = (
    (os, "fsync"),
    (os, "ftruncate"),
    (Path, "replace"),
    (Path, "unlink"),
    (Path, "mkdir"),
    (Ledger, "reserve"),
    (Ledger, "commit"),
    (Ledger, "settle"),
    (store, "insert"),
    (store, "set_committed"),
    (AnswerFiles, "store"),
    (AnswerFiles, "failed"),
    (Journal, "write"),
    (site_module, "train"),
    (site_module, "evaluate"),
)
"""What a site does to its disk, ledger and data; it can be killed before and after each."""


class Moments:
    """The moments at which a site can be killed while it works; counted from 1."""

    def __init__(self) -> None:
        self.passed = 0
        self.last = ""

    def _at(self, moment: str, kill_at: int | None) -> None:
        self.passed += 1
        self.last = moment
        if self.passed == kill_at:
            raise Killed(moment)

    @contextmanager
    def killing(self, kill_at: int | None):
        """Within it, the site is killed at this moment; None: the moments are only counted."""

        def wrapped(name, function):
            def step(*arguments, **settings):
                self._at(f"before {name}", kill_at)
                result = function(*arguments, **settings)
                self._at(f"after {name}", kill_at)
                return result

            return step

        self.passed = 0
        with ExitStack() as patched:
            for owner, name in STEPS:
                step = wrapped(name, getattr(owner, name))
                patched.enter_context(mock.patch.object(owner, name, step))
            yield self
