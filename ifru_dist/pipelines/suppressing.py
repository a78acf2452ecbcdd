"""What a workspace suppresses, as jobs that bring data ask for it."""

from pathlib import Path

import pyarrow as pa

from ifru_dist.ingest.scrubbing import scrub_quarantine
from ifru_dist.workspace.keys import load_key
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.suppression import SuppressionList, read_checked


def key_and_list(workspace: Workspace, key_file: Path | None) -> tuple[bytes, SuppressionList]:
    """The key of a workspace's audit digests, and what its current version suppresses.

    Raises:
        WorkspaceError: the workspace, its key or its list cannot be read.
    """
    manifest = workspace.manifest()
    key = load_key(key_file or workspace.default_key_file, manifest.key_fingerprint)
    return key, SuppressionList(key, read_checked(workspace.root, manifest))


def scrub(quarantine: Path, listed: SuppressionList, ids: tuple[pa.Array, ...]) -> int:
    """Take the rows out of a quarantine file that name what is suppressed; returns their number.

    Args:
        quarantine: The file.
        listed: What is suppressed.
        ids: Of the users and of the items that the logs brought, for their spelling.
    """
    integer_ids = pa.types.is_integer(ids[0].type), pa.types.is_integer(ids[1].type)
    return scrub_quarantine(quarantine, listed.holds, integer_ids, dry_run=False)[1]
