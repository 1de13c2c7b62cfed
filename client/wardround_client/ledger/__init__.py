"""A site's append-only record of privacy spent, over all studies.

`Ledger` refuses before a cap is overdrawn, `verify` says what is wrong with one; docs/ledger.md is
for whoever has to rely on it. `chain` is what a row says and how rows hold together, `anchor` what
is known of them outside the database, `store` the database, `verification` all checks of what lies
on disk, `overview` the account in figures.
"""

from wardround_client.ledger.chain import Cap, Entry, Purpose
from wardround_client.ledger.reservations import Ledger
from wardround_client.ledger.verification import verify

__all__ = ["Cap", "Entry", "Ledger", "Purpose", "verify"]
