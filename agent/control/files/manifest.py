"""Manifests: the list of an artifact's files, as clients upload it. Pure."""

import json
from typing import Any, Final

from agent.control.store.artifact_files import EntryRecord
from agent.model.errors import InvalidInputError
from agent.model.job.digest import decoded
from agent.model.job.paths import leads_upward

_MAX_PATH_CHARS: Final = 4096
#: Bytes of a file; the sum of a hundred thousand such fits into 64 bits.
_MAX_FILE_BYTES: Final = 1 << 46


def parse_manifest(text: bytes) -> list[EntryRecord]:
    """The files that a manifest lists, by path; references among them.

    Raises:
        InvalidInputError: not JSON, or a malformed entry; names its path.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"The artifact's manifest is not JSON: {error}.") from None
    listed = raw.get("contents") if isinstance(raw, dict) else None
    if not isinstance(listed, dict):
        raise InvalidInputError("The artifact's manifest has no object `contents`.")
    return [_entry(path, listed[path]) for path in sorted(listed)]


def _entry(path: str, raw: Any) -> EntryRecord:
    if not path or len(path) > _MAX_PATH_CHARS or "\0" in path or not _is_text(path):
        raise InvalidInputError(
            f"The artifact's manifest lists {path[:100]!r}, which is not a path."
        )
    if path.startswith(("/", "\\")) or leads_upward(path):
        message = f"The artifact's manifest lists '{path}', which leads out of the artifact."
        raise InvalidInputError(message)
    given = raw if isinstance(raw, dict) else {}
    digest, size, ref = given.get("digest"), given.get("size"), given.get("ref")
    has_size = isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= _MAX_FILE_BYTES
    if not isinstance(digest, str) or not _is_text(digest) or not (has_size or size is None):
        raise InvalidInputError(
            f"The artifact's manifest has no valid digest and size for '{path}'."
        )
    if isinstance(ref, str) and ref:
        return EntryRecord(path, digest, None, size or 0, ref)
    return EntryRecord(path, digest, decoded(digest).hex(), size or 0)


def _is_text(value: str) -> bool:
    """Whether it has no lone surrogates, which JSON can express and UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
