"""The data sets that a hospital has named, and what one of them gives to a study.

`data.toml` in the site's home holds name, folder and kind of each. Nothing of it leaves the site,
and neither does a report: it is for the hospital's own staff.
"""

import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import get_args

import numpy as np
import tomli_w
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from wardround_client.account import require_plan, units_of
from wardround_client.cohort import Cohort, CohortSet, build_cohorts
from wardround_client.cohort_pool import read_pool
from wardround_client.durable import replace
from wardround_client.rules import Rules
from wardround_client.sources import SetAside, Source, open_source
from wardround_shared.consortium.files import why
from wardround_shared.errors import CohortError, DataError, PrivacyError
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import Data, Study
from wardround_shared.study.document import Name
from wardround_shared.study.section import Section
from wardround_shared.tasks import task_of

DATA = "data.toml"
"""Name of the file in the site's home."""

_KINDS = get_args(get_args(Data)[0])
SOURCES = tuple(get_args(kind.model_fields["source"].annotation)[0] for kind in _KINDS)
"""Every kind of data that a study can ask for."""

_CAUTIOUS = Rules()
"""Those of a policy file that says nothing."""


class DataSet(Section):
    """`[data-sets.NAME]`.

    Attributes:
        path: absolute, of the folder with the data.
        source: kind of the data, as `data.source` of a study names it.
    """

    path: Path
    source: str


class _File(Section):
    data_sets: dict[Name, DataSet] = Field(default_factory=dict)


class DataSets:
    """The data sets of one site."""

    def __init__(self, file: Path) -> None:
        """Those in `file`, which is made when the first one is added."""
        self._file = file

    def all(self) -> Mapping[str, DataSet]:
        """Every data set by name.

        Raises:
            DataError: the file cannot be read, or a key is wrong.
        """
        try:
            text = self._file.read_text(encoding="utf-8") if self._file.exists() else ""
            return _File.model_validate(tomllib.loads(text)).data_sets
        except OSError as error:
            raise DataError(f"{self._file}: it cannot be read ({why(error)}).") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{self._file}: this is not UTF-8 text; save it as such.") from error
        except tomllib.TOMLDecodeError as error:
            raise DataError(f"{self._file}: this is not a TOML file ({error}).") from error
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(str(part) for part in fault["loc"] if part != "[key]")
            raise DataError(f"{self._file}: {key}: {_lower(fault['msg'])}.") from error

    def get(self, name: str) -> DataSet:
        """The data set of that name.

        Raises:
            DataError: there is none; names those that there are.
        """
        known = self.all()
        if name not in known:
            have = f"there are {', '.join(sorted(known))}" if known else "there is none yet"
            raise DataError(
                f"There is no data set {name!r} at this site, {have}; add it with "
                "wardround-site data add."
            )
        return known[name]

    def add(self, name: str, path: Path, source: str) -> DataSet:
        """Name a folder of data.

        A name is never given to other data: studies were charged to the account of its patients.

        Raises:
            DataError: the name is taken or no name, the folder is not there, the kind is unknown,
                or the file cannot be written.
        """
        known = self.all()
        if name in known:
            raise DataError(
                f"There is a data set {name} already ({known[name].path}); take another name, "
                "since what was spent on these patients is in the account of this one."
            )
        if source not in SOURCES:
            raise DataError(f"--source {source}: take one of {', '.join(SOURCES)}.")
        if not path.is_dir():
            raise DataError(f"{path}: there is no such folder; name the one that has the files.")
        added = DataSet(path=path.resolve(), source=source)
        self._write({**known, name: added})
        return added

    def _write(self, data_sets: Mapping[str, DataSet]) -> None:
        content = {
            name: {"path": str(one.path), "source": one.source} for name, one in data_sets.items()
        }
        try:
            checked = _File.model_validate({"data-sets": content})
            text = tomli_w.dumps(checked.model_dump(mode="json", by_alias=True))
            replace(self._file, [text.encode()])
        except ValidationError:
            raise DataError(
                "A data set's name has lower-case letters, digits and hyphens, 64 at most; take "
                "another one."
            ) from None
        except UnicodeEncodeError as error:
            raise DataError(
                "The name of the folder has letters that are not UTF-8; rename it."
            ) from error
        except OSError as error:
            raise DataError(f"{self._file}: it cannot be written ({why(error)}).") from error


def cohort_for(
    study: Study, data_set: DataSet, *, site: str, cache: Path, rules: Rules = _CAUTIOUS
) -> Cohort:
    """The one cohort that this site brings to a study: all of the data set, under its own name.

    The study's site key is for simulations, where one folder holds several hospitals; here it has
    no say. A second call opens no patient file.

    Args:
        study: that asks for it.
        data_set: to read.
        site: name of this site.
        cache: of decoded cohorts.
        rules: of the site's policy, which say what may be read of it.

    Raises:
        CohortError, DataError, StudyError: as `build_cohorts`.
        DataError: the data set is of another kind than the study wants.
    """
    (cohort,) = _cohorts_for(study, data_set, site=site, cache=cache, rules=rules).cohorts
    return cohort


def _cohorts_for(
    study: Study, data_set: DataSet, *, site: str, cache: Path, rules: Rules
) -> CohortSet:
    if data_set.source != study.data.source:
        raise DataError(
            f"The study wants data of the kind {study.data.source}, and the data set holds "
            f"{data_set.source}; take another data set."
        )
    return build_cohorts(
        study,
        data_set.path,
        cache=cache,
        hospital=site,
        burned_in=rules.allow_burned_in_annotation,
    )


# --- what a data set gives to a study ----------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of the split.

    Attributes:
        patients: None where the study does not name them.
        classes: examples of each class, also of those that are not there.
    """

    examples: int
    patients: int | None
    classes: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a data set gives to a study; for the site's staff, it stays here.

    Attributes:
        training, validation: None if no cohort can be made.
        readable: examples that can be used.
        set_aside: how many cannot, by reason.
        protected: patients or records in training, as `privacy.unit` says; None without a cohort.
        problems: sentences; with one of them the site cannot take part.
        notes: what a person should know.
    """

    training: Side | None
    validation: Side | None
    readable: int
    set_aside: Mapping[str, int]
    protected: int | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check(
    study: Study, data_set: DataSet, *, site: str, cache: Path, rules: Rules = _CAUTIOUS
) -> Report:
    """Read all of a data set as the study would, and count.

    Args:
        study: that asks for it.
        data_set: to read.
        site: name of this site.
        cache: of decoded cohorts; a cohort that can be used is kept there.
        rules: of the site's policy.

    Raises:
        DataError: the data are of another kind, a file or column is not there, or the cache cannot
            be written.
    """
    try:
        cohorts = _cohorts_for(study, data_set, site=site, cache=cache, rules=rules)
    except CohortError as error:
        return _unusable(study, data_set, error, cache, rules)
    (cohort,) = cohorts.cohorts
    return Report(
        training=_side(study, cohort, cohort.train),
        validation=_side(study, cohort, cohort.validation),
        readable=len(cohort.patients),
        set_aside=_sums(cohorts.set_aside),
        protected=units_of(study, cohort),
        problems=tuple(_problems(study, cohort)),
        notes=(*cohorts.notes, *_notes(study, cohort)),
    )


def _unusable(
    study: Study, data_set: DataSet, error: CohortError, cache: Path, rules: Rules
) -> Report:
    """Count nevertheless: whoever has to mend the data needs to know what is wrong with it all."""
    source = open_source(study, data_set.path, burned_in=rules.allow_burned_in_annotation)
    readable, aside = 0, Counter[str]()
    # What no source can get past, an unknown label say, is the problem that is told already.
    with suppress(CohortError):
        for outcome in _outcomes(study, source, cache):
            if isinstance(outcome, SetAside):
                aside[outcome.reason] += 1
            else:
                readable += 1
    return Report(
        training=None,
        validation=None,
        readable=readable,
        set_aside=dict(aside.most_common()),
        protected=None,
        problems=(str(error),),
        notes=source.notes(),
    )


def _outcomes(study: Study, source: Source, cache: Path) -> Iterator[SetAside | None]:
    """What was set aside, and None for each example that could be read."""
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".checking-", dir=cache) as folder:
            pool = read_pool(study, source, Recipe(study), Path(folder) / "pool")
        yield from pool.aside
        yield from repeat(None, len(pool.keys))
    except CohortError:
        # Examples that differ in shape stop the decoding; they are counted without.
        for record in source.records():
            yield record if isinstance(record, SetAside) else None
    except OSError as fault:
        raise DataError(f"{cache}: the cache cannot be written ({fault.strerror}).") from fault


def _side(study: Study, cohort: Cohort, rows: NDArray[np.int64]) -> Side:
    named = study.data.names_patients
    return Side(
        examples=len(rows),
        patients=len(np.unique(cohort.patients[rows])) if named else None,
        classes=task_of(study).tally(cohort.targets[rows]),
    )


def _sums(set_aside: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for reasons in set_aside.values():
        total.update(reasons)
    return dict(total.most_common())


def _problems(study: Study, cohort: Cohort) -> Iterator[str]:
    largest = study.aggregation.largest_cohort
    most = max(len(cohort.train), len(cohort.validation))
    if study.aggregation.secure and most > largest:
        yield (
            f"There are {most} examples on one side of the split, and the study takes {largest} of "
            "a site at most (aggregation.largest-cohort); ask for a larger bound."
        )
    if study.privacy.private:
        try:
            require_plan(study, units_of(study, cohort))
        except PrivacyError as error:
            yield str(error)


def _notes(study: Study, cohort: Cohort) -> Iterator[str]:
    units = units_of(study, cohort)
    if study.privacy.private and units < study.training.batch_size:
        yield (
            f"There are {units} training {study.privacy.unit}s, and a step takes "
            f"{study.training.batch_size}: all of them are in each step, with the noise for that."
        )
    if not study.data.names_patients:
        yield "The study names no patient: each example passes for a patient of its own."


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
