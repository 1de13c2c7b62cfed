"""`wardround-site`: the hospital's command."""

from wardround_client.commands.books import audit, ledger
from wardround_client.commands.data import data
from wardround_client.commands.keys import keys
from wardround_client.commands.site import doctor, init, join, start
from wardround_client.commands.studies import study
from wardround_shared.commands import new_app
from wardround_shared.terminal import accept_every_letter

app = new_app("Wardround at a hospital: what this site allows, does, and has spent.")
for _group, _name in (
    (data, "data"),
    (study, "study"),
    (keys, "keys"),
    (ledger, "ledger"),
    (audit, "audit"),
):
    app.add_typer(_group, name=_name)

app.command(epilog="Example: wardround-site init north --home /var/lib/wardround-site")(init)
app.command(
    epilog="Example: wardround-site join --request north.wardround-request, and when the answer is "
    "there: wardround-site join --answer north.wardround-answer --fingerprint '...'"
)(join)
app.command(epilog="Example: wardround-site start --home /var/lib/wardround-site")(start)
app.command(epilog="Example: wardround-site doctor --home /var/lib/wardround-site")(doctor)


def main() -> None:
    """Entry point."""
    accept_every_letter()
    app()
