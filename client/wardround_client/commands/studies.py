"""`wardround-site study`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from wardround_client.commands.options import DataName, Home, StudyId
from wardround_shared.commands import (
    Json,
    Yes,
    confirm,
    errors,
    log_in_order,
    new_app,
    print_json,
)
from wardround_shared.errors import StudyError
from wardround_shared.terminal import say

study = new_app("Studies that were offered to this site, and what was decided of them.")


@study.command("list", epilog="Example: wardround-site study list")
def list_studies(home: Home, json_: Json = False) -> None:
    """The studies that were offered, those to be decided first."""
    with errors():
        from wardround_client.approvals import Approvals  # noqa: PLC0415 - takes a while
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415

        approvals = Approvals(SiteHome.open(home).studies)
        offers = [
            (offer, approvals.used_for(offer.study.study_id)) for offer in approvals.offered()
        ]
    found = [
        {
            "id": offer.study.study_id,
            "name": offer.study.study.name,
            "decision": None if offer.decision is None else offer.decision.verdict,
            "data_set": None if offer.decision is None else offer.decision.data_set,
            "run": run,
        }
        for offer, run in offers
    ]
    if json_:
        print_json(found)
        return
    for one in found:
        decided = one["decision"] or "to be decided"
        if one["run"]:
            decided += f" (used for the run {one['run']})"
        say(f"{str(one['id'])[:12]}  {one['name']}  {decided}  {one['data_set'] or ''}".rstrip())
    if not found:
        say("No study was offered yet; a site that is connected gets them from the server.")


@study.command("show", epilog="Example: wardround-site study show 3f2a --data heart")
def show_study(
    id_: StudyId,
    home: Home,
    data_: Annotated[
        str | None, typer.Option("--data", help="Data set, to count its patients and its account.")
    ] = None,
) -> None:
    """The disclosure statement: what is computed, what leaves this site, at what cost."""
    with errors():
        from wardround_client.approvals import Approvals  # noqa: PLC0415 - takes a while
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415
        from wardround_client.statement import lines_of, statement  # noqa: PLC0415

        opened = SiteHome.open(home)
        offer = Approvals(opened.studies).find(id_)
        name = data_ or (offer.decision.data_set if offer.decision else None)
        lines = lines_of(statement(offer.study, _circumstances(opened, offer.study, name)))
    for line in lines:
        say(line)


@study.command(epilog="Example: wardround-site study approve 3f2a --data heart")
def approve(id_: StudyId, data_: DataName, home: Home, yes: Yes = False) -> None:
    """Let a study use a data set; read its statement first."""
    with errors():
        from wardround_client.approvals import Approvals  # noqa: PLC0415 - takes a while
        from wardround_client.data_sets import DataSets  # noqa: PLC0415
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415

        opened = SiteHome.open(home)
        DataSets(opened.data_sets).get(data_)
        approvals = Approvals(opened.studies)
        found = approvals.find(id_).study
        confirm(
            f"Shall {found.study.name} ({found.study_id[:12]}) use the data set {data_}?", yes=yes
        )
        log = log_in_order(opened.audit_log)
        approvals.approve(found.study_id, data_set=data_)
        log.append("approved", study=found.study_id, data_set=data_)
    say(f"{found.study.name} is approved, with the data set {data_}.")


@study.command(epilog="Example: wardround-site study refuse 3f2a")
def refuse(id_: StudyId, home: Home) -> None:
    """Let a study use nothing, also if it was approved before."""
    with errors():
        from wardround_client.approvals import Approvals  # noqa: PLC0415 - takes a while
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415

        opened = SiteHome.open(home)
        log = log_in_order(opened.audit_log)
        found = Approvals(opened.studies).refuse(id_).study
        log.append("refused-study", study=found.study_id)
    say(f"{found.study.name} is refused.")


def study_of(home: Any, named: str) -> Any:
    """A study file, or one that was offered."""
    from wardround_client.approvals import Approvals  # noqa: PLC0415 - takes a while
    from wardround_shared.consortium.files import why  # noqa: PLC0415
    from wardround_shared.study import parse_study  # noqa: PLC0415

    file = Path(named)
    if file.suffix != ".toml":
        return Approvals(home.studies).find(named).study
    try:
        return parse_study(file.read_text(encoding="utf-8"), origin=named)
    except OSError as error:
        raise StudyError(f"{named}: the study file cannot be read ({why(error)}).") from error
    except UnicodeDecodeError as error:
        raise StudyError(f"{named}: the study file is not UTF-8 text; save it as such.") from error


def _circumstances(home: Any, study: Any, data_set: str | None) -> Any:
    """What the statement depends on; with a data set its patients are counted."""
    from wardround_client.data_sets import DataSets, check  # noqa: PLC0415 - takes a while
    from wardround_client.enrolment.joining import membership  # noqa: PLC0415
    from wardround_client.ledger import Ledger  # noqa: PLC0415
    from wardround_client.policy import load_policy  # noqa: PLC0415
    from wardround_client.statement import Circumstances  # noqa: PLC0415

    protected, policy = None, load_policy(home.policy)
    if data_set is not None:
        protected = check(
            study,
            DataSets(home.data_sets).get(data_set),
            site=home.settings().name,
            cache=home.cache,
            rules=policy.rules,
        ).protected
    return Circumstances(
        data_set=data_set or study.study.name,
        protected=protected,
        sites=len(membership(home).roster.lines) if home.joined else None,
        policy=policy,
        ledger=Ledger.open(home.folder, site=None),
    )
