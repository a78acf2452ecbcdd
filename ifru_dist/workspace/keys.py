"""Keyed digests: what the audit trail holds instead of the erased pairs. The key lies outside the workspace."""

import hashlib
import os
import secrets
from contextlib import suppress
from functools import lru_cache
from json.encoder import encode_basestring
from pathlib import Path

from ifru_dist.errors import WorkspaceError
from ifru_dist.workspace.files import sync_path

KEY_BYTES = 32
DIGEST_BYTES = 32


def create_key(path: Path) -> bytes:
    """Make a key file readable by its owner only, or read the one that is there."""
    if not path.exists():
        _write_key(path, secrets.token_bytes(KEY_BYTES))
    return load_key(path)


def copy_key(path: Path, key: bytes) -> None:
    """Make a key file of a key that there is already; one that is there must hold the same.

    Raises:
        WorkspaceError: it holds another key, or none.
    """
    if not path.exists():
        _write_key(path, key)
    if load_key(path) != key:
        raise WorkspaceError(
            f"key file {path} holds another key than the workspace whose suppression list is carried over: move it "
            "away, or name another --workspace"
        )


def fingerprint(key: bytes) -> str:
    """What a workspace keeps to know its key again; it tells nothing of the key."""
    return keyed_digest(key, "fingerprint").hex()


def load_key(path: Path, expected: str | None = None) -> bytes:
    """Read a key file.

    Args:
        path: The file.
        expected: Fingerprint of the workspace's key; None: not compared.

    Raises:
        WorkspaceError: it is missing, holds no key of the right length, or another workspace's key.
    """
    try:
        key = bytes.fromhex(path.read_text().strip())
    except FileNotFoundError:
        raise WorkspaceError(
            f"key file {path} is missing: restore it, or name its place with --key-file; without it the record of "
            "earlier erasures cannot be read"
        ) from None
    except OSError as error:
        raise WorkspaceError(f"key file {path} cannot be read ({error.strerror}): check --key-file") from error
    except (UnicodeDecodeError, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise WorkspaceError(f"key file {path} holds no {KEY_BYTES}-byte key in hex: restore it")
    if expected is not None and fingerprint(key) != expected:
        raise WorkspaceError(
            f"key file {path} holds another key than the workspace was made with: restore it, or name its place with "
            "--key-file; with another key earlier erasures would not be known again"
        )
    return key


def _write_key(path: Path, key: bytes) -> None:
    """Write a key file durably, unless another job makes it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".writing-{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    # A link appears whole or not at all, and never replaces the key that another job made meanwhile.
    with suppress(FileExistsError):
        os.link(aside, path)
    aside.unlink()
    sync_path(path.parent)


def keyed_digest(key: bytes, *parts: str | int | None) -> bytes:
    """Keyed BLAKE2b digest (32 bytes) of an unambiguous encoding of the parts."""
    text = f"[{','.join([_json(part) for part in parts])}]"
    digest = _keyed(key).copy()  # keying anew would cost as much as digesting
    digest.update(text.encode())
    return digest.digest()


@lru_cache(maxsize=8)
def _keyed(key: bytes) -> "hashlib.blake2b":
    """A digest of nothing so far."""
    return hashlib.blake2b(key=key, digest_size=DIGEST_BYTES)


def _json(part: str | int | None) -> str:
    """A part as JSON, without the costs of an encoder for each of a million requests."""
    if part is None:
        return "null"
    return encode_basestring(part) if isinstance(part, str) else str(part)
