"""The site's policy file: what this hospital allows, whatever a study asks for.

It is written by the hospital and never leaves it. Here are the caps of the privacy ledger; `rules`
has what else a study must keep. docs/site-policy.md explains every key.
"""

import json
import sys
import tomllib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from wardround_client.ledger import Cap
from wardround_client.rules import Rules
from wardround_shared.consortium.files import why
from wardround_shared.errors import NotAllowedError, PolicyError
from wardround_shared.study import Study
from wardround_shared.study.section import Section

TEMPLATE = """\
# The policy of this site: what it allows, whatever a study asks for. It stays at the site.

[privacy]
# The most that all studies together, now and in future, may spend on the patients of one data set.
# A study's epsilon has to fit into what is left; otherwise it is refused before the first round.
# Half of it is a far stronger promise: docs/privacy.md has a table.
epsilon = 8.0
# The chance that the promise does not hold; well below 1 / (number of patients).
delta = 1e-5

[rules]
# This site gives its part only to sums over at least so many sites.
minimum-cohort = 3
# With false, a study may let the server see what this site alone has learned.
require-secure-aggregation = true
# With true, a study may train without differential privacy: nothing then bounds what it reveals.
allow-without-privacy = false
# With true, DICOM images are read whose header says that text is burned in: a name, perhaps.
allow-burned-in-annotation = false
# The models that a study may ask for; without this line all of them.
# models = ["mlp", "cnn", "resnet18", "resnet50", "densenet121", "unet", "dcgan", "cnn1d", "lstm",
#     "gru", "cnn-lstm", "bilstm"]
# When this site answers, in the local time of this machine; without this line always.
# hours = "20:00-06:00"
# What it trains on: "cuda" refuses to start without a GPU, "auto" takes one if there is one.
device = "auto"

# A data set may have a cap of its own. Data sets with the same patients have to name the same
# population: their studies are charged to one account. Without a population it is the data set's
# own name. A data set keeps the population that its first study was charged to.
#
# [data-sets.chest-xray]
# population = "emergency-department"
# epsilon = 4.0
"""
"""What `wardround-site init` writes for a hospital to change."""


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("a name must be of printable letters")
    return name


def _normal(value: float) -> float:
    # A subnormal number passes "> 0" and vanishes in the arithmetic that follows.
    if value < sys.float_info.min:
        raise ValueError(f"{value:g} is as good as zero, which protects nobody and allows nothing")
    return value


_Name = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_printable)]
# Strict takes an integer for a float, and neither a text nor a truth value.
_Epsilon = Annotated[float, Field(strict=True, gt=0), AfterValidator(_normal)]
_Delta = Annotated[float, Field(strict=True, gt=0, lt=1), AfterValidator(_normal)]


class PrivacyPolicy(Section):
    """`[privacy]`: the cap of a population that no data set says otherwise of."""

    epsilon: _Epsilon = 8.0
    delta: _Delta = 1e-5


class DataSetPolicy(Section):
    """`[data-sets.NAME]`.

    Attributes:
        population: whose account its studies are charged to; without it the data set's own.
        epsilon: cap of that population; without it what another data set of the same population
            says, or `[privacy]`.
        delta: of that cap.
    """

    population: _Name | None = None
    epsilon: _Epsilon | None = None
    delta: _Delta | None = None


class Policy(Section):
    """A whole policy file."""

    privacy: PrivacyPolicy = PrivacyPolicy()
    rules: Rules = Rules()
    data_sets: dict[_Name, DataSetPolicy] = Field(default_factory=dict)

    @staticmethod
    def of(*, epsilon: float, delta: float) -> "Policy":
        """A policy with one cap for every population.

        Raises:
            PolicyError: a value that is no cap.
        """
        return _check({"privacy": {"epsilon": epsilon, "delta": delta}}, origin="policy")

    def check(self, study: Study, *, data_set: str, sites: int | None, now: datetime) -> None:
        """Refuse a study that this site does not allow; what it has spent is the ledger's to say.

        Args:
            study: that asks.
            data_set: name of the data that it is about.
            sites: on the roster of the run; None: not known yet.
            now: with a time zone, or in local time.

        Raises:
            NotAllowedError: naming the first rule; the sentence may leave the site.
        """
        for sentence in self.refusals(study, data_set=data_set, sites=sites):
            raise NotAllowedError(sentence)
        if (closed := self.rules.closed_at(now)) is not None:
            raise NotAllowedError(closed)

    def refusals(self, study: Study, *, data_set: str, sites: int | None) -> Iterator[str]:
        """Every rule that the study does not keep at any hour, one sentence each; see `check`."""
        yield from self.rules.refusals(study, sites=sites)
        cap, asked = self.cap_of(data_set), study.privacy
        # A smaller delta than the cap's is another promise, which only the accountant can compare.
        if asked.private and asked.epsilon > cap.epsilon and asked.delta >= cap.delta:
            yield (
                f"This site allows epsilon {cap.epsilon:g} at delta {cap.delta:g} for these "
                f"patients, over all studies, and this one asks for {asked.epsilon:g} at delta "
                f"{asked.delta:g}; ask for less."
            )

    def population_of(self, data_set: str) -> str:
        """Whose account the studies on a data set are charged to."""
        known = self.data_sets.get(data_set)
        return data_set if known is None or known.population is None else known.population

    def cap_of(self, data_set: str) -> Cap:
        """The cap of a data set's population."""
        return self.cap_of_population(self.population_of(data_set))

    def cap_of_population(self, population: str) -> Cap:
        """The most that all studies together may spend on a population."""
        return Cap(
            epsilon=self._said_of(population, "epsilon") or self.privacy.epsilon,
            delta=self._said_of(population, "delta") or self.privacy.delta,
        )

    def _said_of(self, population: str, key: str) -> float | None:
        """What the data sets of a population say, which is the same by the check below."""
        for name, data_set in self.data_sets.items():
            value: float | None = getattr(data_set, key)
            if value is not None and self.population_of(name) == population:
                return value
        return None

    @model_validator(mode="after")
    def _one_cap_for_each_population(self) -> Self:
        for name, data_set in self.data_sets.items():
            population = self.population_of(name)
            for key in ("epsilon", "delta"):
                value, other = getattr(data_set, key), self._said_of(population, key)
                if value is not None and value != other:
                    raise ValueError(
                        f"data-sets.{name}.{key}: {value:g} contradicts {other:g}, which another "
                        f"data set of the population {population} says; a population has one cap"
                    )
        return self


def load_policy(path: Path) -> Policy:
    """Read and check a policy file.

    Raises:
        PolicyError: it cannot be read, or a key or value is wrong: naming file, key and value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise PolicyError(f"{path}: the policy file cannot be read ({why(error)}).") from error
    except UnicodeDecodeError as error:
        raise PolicyError(
            f"{path}: the policy file cannot be read (it is not UTF-8 text; save it as such)."
        ) from error
    return parse_policy(text, origin=str(path))


def parse_policy(text: str, *, origin: str) -> Policy:
    """Check the text of a policy file; `origin` names it in errors.

    Raises:
        PolicyError: a key or value is wrong: naming file, key and value.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{origin}: this is not a TOML file ({error}).") from error
    return _check(content, origin=origin)


def _check(content: dict[str, Any], *, origin: str) -> Policy:
    try:
        return Policy.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"] if part != "[key]")
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "there is no such key; check its spelling against docs/site-policy.md"
        elif fault["type"] != "value_error":
            given = json.dumps(fault["input"], default=str)[:80]
            message = f"{given} is not allowed here, {message[:1].lower()}{message[1:]}"
        raise PolicyError(f"{origin}: {key}{': ' if key else ''}{message}.") from error
