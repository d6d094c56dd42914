"""Names of files that are not too long for the file system: 255 bytes on most."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

#: Bytes of one name on the usual file systems (ext4, APFS, NTFS, exFAT).
LONGEST = 255
#: Bytes of a source's name; names of results add a number and a suffix, such as ``-00000001.png``.
STEM = 200


def shortened(name: str, limit: int) -> str:
    """A name of at most ``limit`` bytes. A longer name is cut, and a checksum of the whole name is added to keep it
    unique.

    Args:
        name: without its suffix.
        limit: bytes in UTF-8, 10 or more.

    Example:
        >>> shortened("drive", 200), shortened("x" * 300, 20)
        ('drive', 'xxxxxxxxxxx-0d4e2ca9')
    """
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) <= limit:
        return name
    mark = f"-{hashlib.sha256(encoded).hexdigest()[:8]}"
    return _cut(name, limit - len(mark)) + mark


def room_for_name(folder: Path) -> int:
    """Bytes that the name of a file in ``folder`` may have. Encrypted folders allow fewer than :data:`LONGEST`."""
    try:
        return min(os.pathconf(folder, "PC_NAME_MAX"), LONGEST)
    except (AttributeError, OSError, ValueError):  # Windows has no pathconf; or the folder does not exist yet
        return LONGEST


def temporary_prefix(stem: str, middle: str, suffix: str, folder: Path) -> str:
    """The beginning of a temporary name, ``STEM + middle``. ``stem`` is cut so that eight random characters and
    ``suffix`` fit after it."""
    rest = len(middle.encode()) + 8 + len(suffix.encode("utf-8", "surrogateescape"))
    return _cut(stem, max(room_for_name(folder) - rest, 0)) + middle


def _cut(name: str, limit: int) -> str:
    """At most the first ``limit`` bytes of a name, without an incomplete character at the end."""
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) <= limit:
        return name
    while limit and encoded[limit] & 0xC0 == 0x80:  # inside a character
        limit -= 1
    return encoded[:limit].decode("utf-8", "surrogateescape")
