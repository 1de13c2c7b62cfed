"""`wardround-site`: the hospital's command."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from wardround_shared.commands import (
    Json,
    Yes,
    confirm,
    errors,
    log_in_order,
    new_app,
    print_json,
    verify_audit_log,
)
from wardround_shared.errors import EnrolmentError, StudyError
from wardround_shared.terminal import accept_every_letter, say

app = new_app("Wardround at a hospital: what this site allows, does, and has spent.")
data = new_app("The data sets of this site; docs/site-policy.md.")
study = new_app("Studies that were offered to this site, and what was decided of them.")
keys = new_app("The keys of this site; docs/enrolment.md.")
ledger = new_app("The account of privacy spent; docs/ledger.md explains it.")
audit = new_app("The audit log; docs/audit-log.md explains it.")
for _group, _name in (
    (data, "data"),
    (study, "study"),
    (keys, "keys"),
    (ledger, "ledger"),
    (audit, "audit"),
):
    app.add_typer(_group, name=_name)

POLICY = "policy.toml"
"""Name of the policy file in the site's home."""

Home = Annotated[
    Path,
    typer.Option(envvar="WARDROUND_SITE_HOME", help="Folder of this site.", show_default=False),
]
StudyId = Annotated[str, typer.Argument(help="The study's id, or its first letters.")]
DataName = Annotated[str, typer.Option("--data", help="Name of the data set.")]


@app.command(epilog="Example: wardround-site init north --home /var/lib/wardround-site")
def init(
    name: Annotated[str, typer.Argument(help="Name of this site in the consortium.")], home: Home
) -> None:
    """Make the folder of a site: keys, a policy file with comments, an empty ledger."""
    with errors():
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415 - takes a while
        from wardround_shared.audit_log import AuditLog  # noqa: PLC0415

        made = SiteHome.init(home, name)
        AuditLog(made.audit_log).append("made", site=name)
    say(f"{home} is ready; what this site allows is in {made.policy}.")
    say(f"Next: wardround-site join --request {name}.wardround-request --home {home}")


@app.command(
    epilog="Example: wardround-site join --request north.wardround-request, and when the answer is "
    "there: wardround-site join --answer north.wardround-answer --fingerprint '...'"
)
def join(
    home: Home,
    request: Annotated[
        Path | None, typer.Option(help="Write the request for the coordinating centre here.")
    ] = None,
    answer: Annotated[Path | None, typer.Option(help="The answer of the centre.")] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="The answer's fingerprint, as it was read to you.")
    ] = None,
) -> None:
    """Write a request to the coordinating centre, or take its answer."""
    with errors():
        from wardround_client.enrolment import joining  # noqa: PLC0415 - takes a while
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415

        if (request is None) == (answer is None):
            raise EnrolmentError(
                "Give --request FILE to ask for admission, or --answer FILE with --fingerprint to "
                "join with the centre's answer."
            )
        opened = SiteHome.open(home)
        log = log_in_order(opened.audit_log)
        if request is not None:
            facts = joining.write_request(opened, request, now=datetime.now(UTC))
            log.append("requested", site=facts.site)
            _say_request(facts)
            return
        assert answer is not None
        spoken = fingerprint or typer.prompt("Fingerprint of the answer, as it was read to you")
        member = joining.accept(opened, answer, fingerprint=spoken, now=datetime.now(UTC))
        log.append("joined", version=member.roster.version)
    say(f"{member.site} has joined; the server is {member.server}.")
    say(f"Version {member.roster.version} of the roster has {len(member.roster.lines)} sites.")
    say(f"Next: wardround-site doctor --home {home}")


@app.command(epilog="Example: wardround-site start --home /var/lib/wardround-site")
def start(home: Home) -> None:
    """Connect to the server and answer until SIGTERM; nothing that is not approved runs."""
    with errors():
        from wardround_client.daemon.service import serve  # noqa: PLC0415 - takes a while
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415

        serve(
            SiteHome.open(home),
            ready=lambda server: say(f"connecting to {server}; end with Ctrl-C or SIGTERM"),
        )


@app.command(epilog="Example: wardround-site doctor --home /var/lib/wardround-site")
def doctor(home: Home, json_: Json = False) -> None:
    """Check the way to the server and this home; a sentence and a remedy for what is wrong."""
    with errors():
        from wardround_client.doctor import examine  # noqa: PLC0415 - takes a while

        found = []
        for finding in examine(_examined(home)):
            found.append(finding)
            if not json_:
                say(f"{finding.state:4}  {finding.check}: {finding.sentence}")
                if finding.remedy:
                    say(f"      {finding.remedy}")
    if json_:
        print_json([dataclasses.asdict(finding) for finding in found])
    if any(finding.state == "fail" for finding in found):
        raise typer.Exit(1)


@data.command(
    "add",
    epilog="Example: wardround-site data add heart /srv/data/heart --source table",
)
def add_data(
    name: Annotated[str, typer.Argument(help="Name for the data set.")],
    path: Annotated[Path, typer.Argument(help="Its folder.")],
    source: Annotated[str, typer.Option(help="Kind of the data, as a study's data.source.")],
    home: Home,
) -> None:
    """Name a folder of data; nothing of it is read yet."""
    with errors():
        from wardround_client.data_sets import DataSets  # noqa: PLC0415 - takes a while
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415

        opened = SiteHome.open(home)
        log = log_in_order(opened.audit_log)
        added = DataSets(opened.data_sets).add(name, path, source)
        log.append("data-set", data_set=name)
    say(f"{name} is {added.path} ({added.source}).")


@data.command("list", epilog="Example: wardround-site data list")
def list_data(home: Home, json_: Json = False) -> None:
    """The data sets of this site."""
    with errors():
        from wardround_client.data_sets import DataSets  # noqa: PLC0415 - takes a while
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415

        known = DataSets(SiteHome.open(home).data_sets).all()
    if json_:
        print_json({name: {"path": str(d.path), "source": d.source} for name, d in known.items()})
        return
    for name, one in known.items():
        say(f"{name}: {one.path} ({one.source})")
    if not known:
        say("There is none yet; add one with wardround-site data add.")


@data.command("check", epilog="Example: wardround-site data check heart --study heart-disease.toml")
def check_data(
    name: Annotated[str, typer.Argument(help="Name of the data set.")],
    study_: Annotated[
        str, typer.Option("--study", help="A study file, or the id of a study that was offered.")
    ],
    home: Home,
    json_: Json = False,
) -> None:
    """Read all of a data set as a study would: patients, classes, what is left out and why."""
    with errors():
        from wardround_client.data_sets import DataSets, check  # noqa: PLC0415 - takes a while
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415
        from wardround_client.policy import load_policy  # noqa: PLC0415

        opened = SiteHome.open(home)
        report = check(
            _study_of(opened, study_),
            DataSets(opened.data_sets).get(name),
            site=opened.settings().name,
            cache=opened.cache,
            rules=load_policy(opened.policy).rules,
        )
    if json_:
        print_json(dataclasses.asdict(report))
    else:
        _say_report(report)
    if report.problems:
        raise typer.Exit(1)


@data.command(
    "deidentify",
    epilog="Example: wardround-site data deidentify /srv/ct /srv/ct-project --project lungs",
)
def deidentify_data(
    *,
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Folder with DICOM files, or one such file.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that is new or empty.")],
    home: Annotated[
        Path | None,
        typer.Option(envvar="WARDROUND_SITE_HOME", help="Folder of this site; it keeps the key."),
    ] = None,
    project: Annotated[
        str, typer.Option(help="What the images are for; projects cannot be linked.")
    ] = "default",
    key: Annotated[
        Path | None, typer.Option(help="A key file of your own in place of the site's.")
    ] = None,
    table: Annotated[
        bool,
        typer.Option(
            "--table", help="Keep a table beside the key of which file and patient is who."
        ),
    ] = False,
    no_text_in: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY",
            help="Somebody has looked at the images of this modality (CR, say): no text in them.",
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Write DICOM images without the patient; docs/deidentification.md says what that means.

    IN is a folder with DICOM files, or one such file; OUT is a folder that is new or empty.
    """
    with errors():
        from wardround_client.deidentification import command  # noqa: PLC0415 - takes a while

        asked = command.Asked(
            home=home, project=project, key=key, table=table, looked_at=tuple(no_text_in or ())
        )
        report, where = command.run(source, output, asked)
    if json_:
        print_json(report.content())
        return
    for line in report.lines():
        say(line)
    if where is not None:
        say(f"{where} says who is who; it must not leave the site.")


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


@keys.command(epilog="Example: wardround-site keys rotate north.wardround-request")
def rotate(
    request: Annotated[Path, typer.Argument(help="Where to write the request for new keys.")],
    home: Home,
    afresh: Annotated[
        bool,
        typer.Option("--afresh", help="Without the old keys' word: they were stolen, or revoked."),
    ] = False,
) -> None:
    """Make new keys and ask for them; the old ones hold until the roster has the new ones."""
    with errors():
        from wardround_client.enrolment import rotation  # noqa: PLC0415 - takes a while
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415

        opened = SiteHome.open(home)
        log = log_in_order(opened.audit_log)
        facts = rotation.rotate(opened, request, now=datetime.now(UTC), afresh=afresh)
        log.append("keys", site=facts.site)
    _say_request(facts)


@keys.command(epilog="Example: wardround-site keys abandon")
def abandon(home: Home) -> None:
    """Forget new keys that were asked for and never admitted."""
    with errors():
        from wardround_client.enrolment import rotation  # noqa: PLC0415 - takes a while
        from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415
        from wardround_shared.audit_log import Told  # noqa: PLC0415

        opened = SiteHome.open(home)
        log = log_in_order(opened.audit_log)
        forgotten = rotation.abandon(opened)
        if forgotten:
            why = Told("The new keys that were asked for are forgotten.")
            log.append("keys", site=opened.settings().name, reason=why)
    if forgotten:
        say("The new keys are forgotten; the ones in force stay.")
    else:
        say("There are no new keys, so nothing was forgotten; the ones in force stay.")


@ledger.command("show", epilog="Example: wardround-site ledger show --home /var/lib/wardround-site")
def show_ledger(home: Home, json_: Json = False) -> None:
    """What each population and study has spent, what is left, and every reservation."""
    with errors():
        from wardround_client.ledger import Ledger  # noqa: PLC0415 - takes a second
        from wardround_client.ledger.overview import overview  # noqa: PLC0415
        from wardround_client.ledger.tables import print_overview  # noqa: PLC0415
        from wardround_client.policy import load_policy  # noqa: PLC0415

        opened = Ledger.open(home, site=None)
        policy = load_policy(home / POLICY) if (home / POLICY).exists() else None
        content = overview(opened, policy)
    if json_:
        print_json(content)
    else:
        print_overview(content)


@ledger.command(
    "verify", epilog="Example: wardround-site ledger verify --home /var/lib/wardround-site"
)
def verify_ledger(home: Home, json_: Json = False) -> None:
    """Check every row, hash and seal; exit code 1 and one sentence for each fault."""
    with errors():
        from wardround_client.ledger import verify as faults_of  # noqa: PLC0415 - takes a second

        faults = faults_of(home)
    if json_:
        print_json({"sound": not faults, "faults": faults})
    for line in faults or ["The ledger is sound."]:
        if not json_:
            say(line)
    if faults:
        raise typer.Exit(1)


@audit.command("verify", epilog="Example: wardround-site audit verify")
def verify_audit(
    home: Home,
    head: Annotated[
        str | None, typer.Option(help="A head that was written down earlier: NUMBER:HASH.")
    ] = None,
    json_: Json = False,
) -> None:
    """Check every line and hash of the audit log, offline."""
    verify_audit_log(home / "audit.jsonl", known=head, json_=json_)


def main() -> None:
    """Entry point."""
    accept_every_letter()
    app()


def _examined(folder: Path) -> Any:
    """What the doctor looks at, however much of it is out of order; only a home has to be there."""
    from wardround_client.doctor import Examined  # noqa: PLC0415 - takes a while
    from wardround_client.enrolment.home import SiteHome  # noqa: PLC0415
    from wardround_client.ledger.anchor import Files  # noqa: PLC0415

    home, settings, fault = SiteHome(folder=folder), None, ""
    try:
        SiteHome.open(folder, keys=False)
        settings = home.settings()
    except EnrolmentError as error:
        if not home.settings_file.exists():
            raise
        fault = str(error)
    return Examined(
        name=None if settings is None else settings.name,
        settings=fault,
        server=None if settings is None else settings.server,
        home=home.folder,
        authorities=home.authorities,
        consortium=home.consortium,
        roster=home.roster,
        keys=home.keys,
        secrets=(home.keys.identity, home.keys.node, Files(home=home.folder).key),
        policy=home.policy,
        audit_log=home.audit_log,
    )


def _say_request(facts: Any) -> None:
    say(f"Send {facts.file} to the coordinating centre, and read it this over the telephone:")
    say(f"    {facts.fingerprint}")


def _study_of(home: Any, named: str) -> Any:
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


def _say_report(report: Any) -> None:
    for title, side in (("training", report.training), ("validation", report.validation)):
        if side is not None:
            patients = "" if side.patients is None else f" of {side.patients} patients"
            classes = ", ".join(f"{name} {count}" for name, count in side.classes.items())
            say(f"{title}: {side.examples} examples{patients} ({classes})")
    say(f"can be used: {report.readable}")
    for reason, count in report.set_aside.items():
        say(f"left out: {count} ({reason})")
    for note in report.notes:
        say(f"note: {note}")
    for problem in report.problems:
        say(f"problem: {problem}")
