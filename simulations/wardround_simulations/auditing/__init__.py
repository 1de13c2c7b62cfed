"""Is it true? Trains a site with canaries in it, and measures what its updates say about them.

`audit_run` does it; `lines_of` says what came out. What the audit can see, and what it cannot, is
in docs/audit.md.
"""

from wardround_simulations.auditing.audit import AuditSettings, audit_run
from wardround_simulations.auditing.progress import lines_of, rounds_on

__all__ = ["AuditSettings", "audit_run", "lines_of", "rounds_on"]
