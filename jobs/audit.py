"""Check every file of a workspace, and show what was done for a request, a user or an item."""

from ifru_dist.pipelines.audit import AuditConfig, audit
from ifru_dist.pipelines.command import run_command

if __name__ == "__main__":
    run_command(AuditConfig, audit)
