"""The ways in which a study is trained, and what the study is in each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wardround_shared.study import Aggregation, Personal, Study, load_study
from wardround_shared.study.reading import has_private_settings

Kind = Literal["pooled", "alone", "federated", "federated-dp"]

POOLED, FEDERATED, PRIVATE = "pooled", "federated", "federated-dp"
"""Keys of the ways that there are at most once."""

_MECHANISM = "privacy.mechanism"


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to train.

    Attributes:
        key: unlike that of any other way.
        title: for people.
        study: as trained in this way.
        site: that trains alone; empty in all other ways.
        folder: of its run, in the folder of the comparison.
    """

    key: str
    kind: Kind
    title: str
    study: Study
    site: str = ""
    folder: str

    @property
    def passes(self) -> int | None:
        """Times that the training data are gone through; None: it depends on how many there are."""
        training = self.study.training
        return None if training.local_steps else training.rounds * training.local_epochs


@dataclass(frozen=True, kw_only=True)
class Studies:
    """One study file, read for training without and with privacy.

    Attributes:
        private: None where no private training is asked for.
        why_not: why there is none, in a sentence.
    """

    plain: Study
    private: Study | None
    why_not: str = ""


def studies_of(file: Path, overrides: Sequence[str]) -> Studies:
    """Read a study file without and with privacy, each with the settings meant for it.

    A study that is not private is trained privately only if it has settings for that under
    `[private]`, and never if the overrides say that it shall not be.

    Raises:
        StudyError: the study, in either form, is wrong or impossible.
    """
    plain = load_study(file, [*overrides, f"{_MECHANISM}=none"])
    given = load_study(file, overrides)
    if given.privacy.private:
        return Studies(plain=plain, private=given)
    if any(override.partition("=")[0].strip() == _MECHANISM for override in overrides):
        why = "no row with differential privacy: it was left out with --set privacy.mechanism=none."
        return Studies(plain=plain, private=None, why_not=why)
    if not has_private_settings(file):
        why = (
            'no row with differential privacy: the study has privacy.mechanism = "none" and no '
            "settings for private training under [private]."
        )
        return Studies(plain=plain, private=None, why_not=why)
    return Studies(plain=plain, private=load_study(file, [*overrides, f"{_MECHANISM}=dp-sgd"]))


def at_one_place(study: Study) -> Study:
    """The study as it is trained where all its data lie in one place.

    Nothing is summed over sites there, so that nothing is masked, and the model of the site is the
    model: how a server would step, and what would be the site's own, is left out. All else that a
    site does stays.
    """
    training = study.training.model_copy(
        update={"strategy": "fedavg", "proximal": 0.0, "server_learning_rate": 1.0}
    )
    aggregation = Aggregation.model_validate({"secure": False, "minimum-sites": 1})
    return study.model_copy(
        update={"training": training, "aggregation": aggregation, "personal": Personal()}
    )


def ways_of(studies: Studies, sites: dict[str, str]) -> list[Way]:
    """All ways, in the order in which they are trained and shown.

    Args:
        studies: without and with privacy.
        sites: that have somebody to train on, by name, with a name for a folder of each.
    """
    single = at_one_place(studies.plain)
    ways = [Way(key=POOLED, kind="pooled", title="pooled", study=single, folder=POOLED)]
    ways += [
        Way(
            key=f"alone/{site}",
            kind="alone",
            title=f"{site} alone",
            study=single,
            site=site,
            folder=f"alone-{folder}",
        )
        for site, folder in sites.items()
    ]
    ways.append(
        Way(
            key=FEDERATED,
            kind="federated",
            title="federated",
            study=studies.plain,
            folder=FEDERATED,
        )
    )
    if studies.private is not None:
        ways.append(
            Way(
                key=PRIVATE,
                kind="federated-dp",
                title=f"federated, epsilon {studies.private.privacy.epsilon:g}",
                study=studies.private,
                folder=PRIVATE,
            )
        )
    return ways
