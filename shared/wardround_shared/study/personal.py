"""`[personal]`: what each site has for itself of the model."""

from typing import Literal

from pydantic import Field

from wardround_shared.study.models import (
    Backbone,
    Cnn,
    Cnn1d,
    CnnLstm,
    DcGan,
    Gru,
    Lstm,
    Model,
    UNet,
)
from wardround_shared.study.section import Section


class Personal(Section):
    """`[personal]`: parts of the model that stay at the site; by default there are none.

    Attributes:
        layers: parameters that no site ever sends, and each keeps from round to round:
            `normalisation` is scale and shift of every group norm (FedBN, Li et al. 2021).
        ditto: lambda of Ditto (Li et al. 2021): each site trains a model of its own in each round,
            which is pulled to the shared one by so much; 0 does not pull.
        fine_tune_epochs: passes over a site's own data, after the last round, from the final
            global model on; what comes of them stays at the site.
        fine_tune_learning_rate: constant, of these; without it `training.learning-rate`.
    """

    layers: Literal["none", "normalisation"] = "none"
    ditto: float | None = Field(default=None, ge=0)
    fine_tune_epochs: int = Field(default=0, ge=0, le=10_000)
    fine_tune_learning_rate: float | None = Field(default=None, gt=0)

    @property
    def any(self) -> bool:
        """Whether a site ends with a model of its own."""
        return self.layers != "none" or self.ditto is not None or self.fine_tune_epochs > 0


def has_normalisation(model: Model) -> bool:
    """Whether a model has group norms, whose scale and shift can stay at the site."""
    if isinstance(model, Lstm | Gru):
        return model.front > 0
    return isinstance(model, Cnn | Backbone | UNet | DcGan | Cnn1d | CnnLstm)
