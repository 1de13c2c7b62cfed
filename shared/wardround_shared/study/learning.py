"""`[training]`, `[privacy]`, `[aggregation]`, `[simulation]`."""

import math
from typing import Literal

from pydantic import Field, model_validator

from wardround_shared.study.section import Section


class Generator(Section):
    """`[training.generator]`: how the server trains a generator after each round.

    Adam (Kingma and Ba 2015) with beta1 = 0.5 as in DCGAN, against the discriminator as the round
    has left it.

    Attributes:
        steps: of a round.
        batch_size: images a step.
        learning_rate: in the first round; it falls by the schedule of `training`.
    """

    steps: int = Field(default=20, ge=1, le=100_000)
    batch_size: int = Field(default=64, ge=1, le=4096)
    learning_rate: float = Field(default=0.001, gt=0)


class Training(Section):
    """`[training]`: what a site does in a round, and how the server steps.

    Attributes:
        local_steps: steps of a site in a round, the same at every site, in place of local epochs.
        batch_size: examples a step; under DP the expected number of units (Poisson sampling).
        learning_rate_schedule: over the planned rounds; `cosine` falls to zero.
        class_weights: `balanced` weighs the loss by the class counts summed over all sites.
        proximal: mu of fedprox (Li et al. 2020); only with that strategy.
        server_learning_rate: factor on the mean update; for fedadam its step size.
        average_last: the model that is kept is the mean of the last so many global models.
        generator: of an image generation; goes with no other task.
    """

    rounds: int = Field(ge=1, le=100_000)
    local_epochs: int = Field(default=1, ge=1)
    local_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=32, ge=1)
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = Field(gt=0)
    learning_rate_schedule: Literal["constant", "cosine"] = "constant"
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    class_weights: Literal["none", "balanced"] = "none"
    strategy: Literal["fedavg", "fedprox", "fedadam", "scaffold"] = "fedavg"
    proximal: float = Field(default=0.0, ge=0.0)
    server_learning_rate: float = Field(default=1.0, gt=0)
    average_last: int = Field(default=1, ge=1)
    generator: Generator = Generator()

    def rate_share(self, round_number: int) -> float:
        """What the schedule leaves of a learning rate in a round (1-based)."""
        if self.learning_rate_schedule == "constant":
            return 1.0
        return 0.5 * (1.0 + math.cos(math.pi * (round_number - 1) / self.rounds))

    def rate_in(self, round_number: int) -> float:
        """Learning rate of a round (1-based) by the schedule."""
        return self.learning_rate * self.rate_share(round_number)

    @model_validator(mode="after")
    def _strategy_fits(self) -> "Training":
        if (self.strategy == "fedprox") != (self.proximal > 0):
            raise ValueError("proximal > 0 goes with strategy = 'fedprox', and with no other")
        return self


class Privacy(Section):
    """`[privacy]`: mechanism `none` has to be written out and is shown everywhere.

    Attributes:
        unit: whose presence is hidden: a patient with all records, or one record.
        epsilon: for the whole planned study at one site, at the given delta.
        max_grad_norm: L2 bound on one unit's gradient, summed over the unit's examples; within what
            float32 can clip (dp_sgd.py).
        examples_per_patient: so many of a patient's examples, chosen at random, enter a step.
    """

    mechanism: Literal["dp-sgd", "none"]
    unit: Literal["patient", "record"] = "patient"
    epsilon: float = Field(default=8.0, gt=0)
    delta: float = Field(default=1e-5, gt=0, lt=1)
    max_grad_norm: float = Field(default=1.0, ge=1e-6, le=1e6)
    examples_per_patient: int = Field(default=16, ge=1, le=1024)

    @property
    def private(self) -> bool:
        """Whether training is differentially private."""
        return self.mechanism != "none"


class Aggregation(Section):
    """`[aggregation]`: how updates are summed.

    Attributes:
        minimum_sites: a round with fewer answers is given up.
        deadline: seconds after which a round closes without the missing sites.
        largest_change: bound on the change of one parameter at one site in one round; a larger
            one is clamped and counted. Only with secure aggregation, as are the following.
        largest_cohort: bound on the examples of one site; a larger site is refused.
        ring_bits: 32, or 16 to halve the update on slow links at the cost of precision.
    """

    secure: bool = True
    minimum_sites: int = Field(default=2, ge=1)
    deadline: float = Field(default=3600.0, gt=0)
    largest_change: float = Field(default=1.0, gt=0, le=1e6)
    largest_cohort: int = Field(default=50_000, ge=1, le=10_000_000)
    ring_bits: Literal[16, 32] = 32


class Simulation(Section):
    """`[simulation]`: how examples are dealt to virtual sites when `--sites` asks for it.

    Attributes:
        partition: `iid` deals patients at random; `dirichlet` draws each class's shares over
            the sites from a symmetric Dirichlet distribution (Hsu et al. 2019).
        sites: default number of virtual sites when the data name no hospital.
        allow_burned_in_annotation: read DICOM images whose header says that text is burned in. A
            hospital's own policy decides for itself and never looks here.
    """

    partition: Literal["iid", "dirichlet"] = "iid"
    alpha: float = Field(default=0.5, gt=0)
    sites: int | None = Field(default=None, ge=1)
    allow_burned_in_annotation: bool = False
