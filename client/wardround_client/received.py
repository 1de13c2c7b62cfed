"""What a site checks of a request before it touches its data: on the content alone.

What a request may say follows from the study: which sums there are, in which round of the run each
is asked for, and what the fitted preprocessing constants look like. A refusal here says nothing
about anybody's data. P = model parameters, K = classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wardround_shared.digests import FieldDigest
from wardround_shared.errors import ProtocolError
from wardround_shared.messages import (
    CLASS_COUNTS,
    EVALUATE,
    STATISTICS,
    TRAIN,
    Fitted,
    GlobalModel,
    Header,
    Shapes,
)
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import Study


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as a site received it, apart from the model.

    Attributes:
        secure: messages of secure aggregation that came with it.
        digest: SHA-256 over all that this site has understood of the rest (`request_digest`).
    """

    header: Header
    secure: Mapping[str, bytes]
    digest: bytes


class Expected:
    """What one study's requests look like to a site whose examples have these shapes."""

    def __init__(self, study: Study, recipe: Recipe, shapes: Shapes) -> None:
        self._study = study
        self._recipe = recipe
        self._shapes = shapes

    def check_model(self, message_type: str, model: GlobalModel) -> None:
        """Refuse a global model that is not one of this study.

        Its parameters are finite (`read_model`) and are counted when they are put into the module.

        Args:
            message_type: `STATISTICS`, `TRAIN` or `EVALUATE`; class counts need no model.
            model: as received.

        Raises:
            ProtocolError: class counts, fitted constants or a control variate that are not of this
                study, or one that is not finite.
        """
        expects = message_type == TRAIN and self._study.training.strategy == "scaffold"
        if (model.control is not None) != expects or (
            model.control is not None and model.control.shape != model.parameters.shape
        ):
            raise ProtocolError(
                f"The control variate that comes with {message_type}, or is missing, is not that "
                "of the study's strategy and model."
            )
        classes = len(self._study.study.classes)
        if model.class_counts.shape != (classes,) or (model.class_counts < 0).any():
            raise ProtocolError(
                f"The received class counts are not {classes} numbers of examples, one for each "
                "class of the study."
            )
        steps, fitted = len(self._recipe.needs_fit), len(model.fitted)
        if not (fitted < steps if message_type == STATISTICS else fitted == steps):
            raise ProtocolError(
                f"The request brings {fitted} fitted preprocessing steps of {steps}, which does "
                f"not fit {message_type}."
            )
        for expected, constants in zip(self._constants, model.fitted, strict=False):
            if constants.keys() != expected.keys():
                raise ProtocolError(
                    "The fitted constants of a preprocessing step have other names."
                )
            for name, like in expected.items():
                array = constants[name]
                if array.shape != like.shape or array.dtype != like.dtype:
                    raise ProtocolError(
                        f"The fitted constant {name!r} has another shape or type than in this "
                        "study's recipe."
                    )
                if not np.isfinite(array).all():
                    raise ProtocolError(f"The fitted constant {name!r} is not finite.")

    def question(self, message_type: str, header: Header, fitted: Fitted) -> bytes:
        """What is asked, 32 bytes; a run of the study has so many questions and no more.

        It leaves the model out on purpose: the same sum for another model is the same question.

        Raises:
            ProtocolError: the study asks for no such sum in that round.
        """
        rounds = self._study.training.rounds
        asked_in = {
            CLASS_COUNTS: range(1),
            STATISTICS: range(1),
            TRAIN: range(1, rounds + 1),
            EVALUATE: range(rounds + 1, rounds + 2),
        }[message_type]
        if header.round not in asked_in:
            raise ProtocolError(
                f"The server asks for {message_type} in round {header.round}; a run of this study "
                f"does so in rounds {asked_in[0]} to {asked_in[-1]}."
            )
        digest = FieldDigest("wardround/question/1")
        digest.text(message_type)
        digest.number(header.round)
        # Statistics of each step are a question of their own; class counts need no step.
        digest.number(len(fitted) if message_type == STATISTICS else 0)
        return digest.digest()

    @cached_property
    def _constants(self) -> Fitted:
        """Constants with the names, shapes and types of this study: fitted on no examples."""
        fitted: Fitted = ()
        for _ in self._recipe.needs_fit:
            nothing = np.zeros(self._recipe.statistics_length(self._shapes, fitted))
            fitted = (*fitted, self._recipe.fit(nothing, fitted))
        return fitted
