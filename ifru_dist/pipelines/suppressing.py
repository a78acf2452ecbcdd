"""What a workspace suppresses, as jobs that bring data ask for it."""

from pathlib import Path

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
