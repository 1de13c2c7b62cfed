"""The audit log of a site or a server: one line an event, chained by hash, never edited.

It says what happened and when, for whoever has to account for it; no patient data, no path. (The
audit of privacy, which attacks a model to test its epsilon, is another thing: docs/audit.md.)
`AuditLog` appends, `verify` finds what was changed; docs/audit-log.md says what it can and cannot
show. `line` is what a line says, `log` the file, `sparing` what is worth a line, `verification` the
check.
"""

from wardround_shared.audit_log.line import EVENTS, FIELDS, Head, Told
from wardround_shared.audit_log.log import AuditLog
from wardround_shared.audit_log.sparing import Sparing
from wardround_shared.audit_log.verification import entries, head, verify

__all__ = ["EVENTS", "FIELDS", "AuditLog", "Head", "Sparing", "Told", "entries", "head", "verify"]
