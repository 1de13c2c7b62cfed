"""The virtual sites of a run: their data, their homes, and whether they could take part."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from wardround_client.account import require_plan, units_of
from wardround_client.cohort import CohortSet, build_cohorts
from wardround_client.policy import Policy
from wardround_shared.errors import NotEnoughSitesError, RunError, RunFolderError, StudyError
from wardround_shared.secure_aggregation.codec import MAX_SITES
from wardround_shared.secure_aggregation.roster import SMALLEST_COHORT
from wardround_shared.study import PhantomData, Study
from wardround_simulations.ledgers import Ledgers, claim_homes
from wardround_simulations.partitions import partition_of
from wardround_simulations.settings import Settings


def read_cohorts(settings: Settings) -> CohortSet:
    """The cohorts of all virtual sites, from the cache where they are there.

    Raises:
        DataError: the data cannot be used as the study describes them.
    """
    study = settings.study
    data = settings.data
    if data is None and isinstance(study.data, PhantomData):
        data = phantom_folder(study.data, cache=settings.cache, seed=settings.seed)
    if data is None:
        raise RunError(
            f"The study {study.study.name} needs data: say where its files lie with --data PATH."
        )
    sites = settings.sites
    if sites is None and study.data.site is None:
        sites = study.simulation.sites
        if sites is None:
            raise StudyError(
                "data.site is not given and neither is simulation.sites: say where the hospital "
                "stands, or into how many virtual sites to deal the patients (--sites N)."
            )
    partition = (
        None if sites is None else partition_of(study.simulation, sites=sites, seed=settings.seed)
    )
    return build_cohorts(
        study,
        data,
        cache=settings.cache,
        partition=partition,
        burned_in=study.simulation.allow_burned_in_annotation,
    )


def check_sites(study: Study, cohorts: CohortSet) -> None:
    """Refuse a run that cannot reach its minimum of sites, before anything is written.

    Raises:
        NotEnoughSitesError: fewer sites than the study, or secure aggregation, needs.
    """
    sites = len(cohorts.cohorts)
    minimum = study.aggregation.minimum_sites
    if sites < minimum:
        raise NotEnoughSitesError(
            f"The data give {sites} sites, the study needs {minimum} (aggregation.minimum-sites)."
        )
    if study.aggregation.secure and not SMALLEST_COHORT <= sites <= MAX_SITES:
        raise NotEnoughSitesError(
            f"The data give {sites} sites; secure aggregation takes {SMALLEST_COHORT} to "
            f"{MAX_SITES} (write aggregation.secure = false to let the server see each update)."
        )


def check_privacy(settings: Settings, cohorts: CohortSet) -> None:
    """Refuse a run that some site would refuse, before anything is written to the run folder.

    Raises:
        PrivacyError: no noise reaches the study's epsilon, or a ledger is not sound.
        BudgetError: the plan does not fit into what a site's ledger has left.
        RunError: the homes belong to other data, or to noise that protects somebody.
    """
    study = settings.study
    if not study.privacy.private:
        return
    for units in {units_of(study, cohort) for cohort in cohorts.cohorts}:
        require_plan(study, units)
    run = "" if settings.out is None else settings.out.name
    if settings.homes is not None:
        if settings.noise_seed is not None:
            raise RunError(
                "--noise-seed and --homes: injected noise protects nobody and has no place in an "
                "account that goes on; leave one of them out."
            )
        claim_homes(settings.homes, data=settings.data, cohorts=cohorts)
        ledgers = ledgers_at(settings, site_homes(settings.homes, cohorts))
        ledgers.require_new(study, run)
        ledgers.require_room(study, cohorts, run=run)
    elif settings.policy is not None:
        with TemporaryDirectory() as empty:  # as new as the ledgers that the run will have
            homes = site_homes(Path(empty), cohorts)
            ledgers_at(settings, homes).require_room(study, cohorts, run=run)


def site_homes(folder: Path, cohorts: CohortSet) -> dict[str, Path]:
    """Where each virtual site has its home in `folder`."""
    return {cohort.site: folder / cohort.folder.name for cohort in cohorts.cohorts}


def ledgers_at(settings: Settings, homes: Mapping[str, Path]) -> Ledgers:
    """The ledgers in these homes, under the policy of the run.

    Raises:
        PrivacyError: a ledger is there and not sound, or cannot be written.
    """
    privacy = settings.study.privacy
    policy = settings.policy or Policy.of(epsilon=privacy.epsilon, delta=privacy.delta)
    data_set = settings.study.study.name if settings.data is None else settings.data.resolve().name
    return Ledgers.at(homes, policy=policy, data_set=data_set)


def phantom_folder(data: PhantomData, *, cache: Path, seed: int) -> Path:
    """The folder of phantoms made from `seed`, written if it is not there yet."""
    from wardround_simulations.phantom import EDITION, write_phantom  # noqa: PLC0415 - only if needed

    name = f"phantom-{EDITION}-{data.sites}-{data.patients_per_site}-{data.size}-{seed}"
    folder = cache / name
    if not folder.is_dir():
        try:
            write_phantom(data, folder, seed=seed)
        except RunFolderError:
            # Another run has written the same files meanwhile; whole, as it does.
            if not folder.is_dir():
                raise
    return folder
