"""Damage to the bytes of a file: bits flipped, blocks lost, moved or repeated, ends cut off, numbers made absurd."""

from collections.abc import Callable, Sequence
from random import Random

ABSURD = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**63, 2**64 - 1)
"""Numbers that lengths, counts and offsets are replaced by, little-endian in 4 or 8 bytes."""
TELLING = b"\x00\xff\x7f\x80\"',\r\n\\{}[]:-.0129eE \xc3\xed"
"""Bytes that formats give a meaning to, or that break text."""


def damaged(content: bytes, others: Sequence[bytes], chance: Random) -> bytes:
    """The content with one to three damages; never the content itself.

    Args:
        content: What the file holds.
        others: Contents of other files, to splice in.
        chance: Draws kinds and places.
    """
    changed = content
    while changed == content:
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            changed = chance.choice(_DAMAGES)(changed, others, chance)
    return changed


def _flip(content: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    """One bit is another."""
    if not content:
        return content
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def _overwrite(content: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    """A few bytes are others."""
    at, length = chance.randrange(len(content) + 1), chance.randrange(1, 9)
    return content[:at] + chance.randbytes(length) + content[at + length :]


def _tell(content: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    """A byte with a meaning is put in, or takes the place of another."""
    at = chance.randrange(len(content) + 1)
    return content[:at] + bytes([chance.choice(TELLING)]) + content[at + chance.randrange(2) :]


def _absurd(content: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    """A number is absurd, at the places where binary formats align theirs."""
    width = chance.choice((4, 8))
    at = chance.randrange(len(content) // 4 + 1) * 4
    return content[:at] + (chance.choice(ABSURD) % 256**width).to_bytes(width, "little") + content[at + width :]


def _cut(content: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    """The end is missing."""
    return content[: chance.randrange(len(content) + 1)]


def _extend(content: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    """There is more behind the end."""
    return content + chance.randbytes(chance.randrange(1, 200))


def _erase(content: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    """A block is zeros, as after a crash of a file system."""
    start, stop = _block(content, chance)
    return content[:start] + bytes(stop - start) + content[stop:]


def _lose(content: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    """A block is missing."""
    start, stop = _block(content, chance)
    return content[:start] + content[stop:]


def _repeat(content: bytes, _: Sequence[bytes], chance: Random) -> bytes:
    """A block stands somewhere else, too, over what was there or between."""
    start, stop = _block(content, chance)
    at = chance.randrange(len(content) + 1)
    return content[:at] + content[start:stop] + content[at + chance.choice((0, stop - start)) :]


def _splice(content: bytes, others: Sequence[bytes], chance: Random) -> bytes:
    """A block is that of another file, or all of it is another file."""
    other = chance.choice(others)
    start, stop = _block(other, chance)
    return chance.choice((other, content[:start] + other[start:stop] + content[stop:], content[:start] + other[start:]))


def _block(content: bytes, chance: Random) -> tuple[int, int]:
    """Where a block begins and ends."""
    start = chance.randrange(len(content) + 1)
    return start, min(len(content), start + chance.choice((1, 4, 8, 64, 512)))


_DAMAGES: tuple[Callable[[bytes, Sequence[bytes], Random], bytes], ...] = (
    *(_flip, _flip, _overwrite, _tell, _tell, _absurd, _absurd),
    *(_cut, _extend, _erase, _lose, _repeat, _splice),
)
