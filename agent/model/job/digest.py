"""Digests of artifacts, as W&B's clients compute them: equal content is one version.

An entry's digest is the base64 form of its content's MD5; an artifact's is the hexadecimal MD5
over the sorted list of its entries. They identify versions, and do not protect
against tampering.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

from agent.model.errors import InvalidInputError

MANIFEST_HEADER: Final = b"wandb-artifact-manifest-v1\n"
MANIFEST_NAME: Final = "wandb_manifest.json"
#: A manifest without its `contents`: path → `{"digest", "size", "birthArtifactID"}`.
MANIFEST_HEAD: Final = {
    "version": 1,
    "storagePolicy": "wandb-storage-policy-v1",
    "storagePolicyConfig": {"storageLayout": "V2"},
}
_MD5_BYTES: Final = 16


def entry_digest(chunks: Iterable[bytes]) -> str:
    """The digest of a content that is given in pieces."""
    total = hashlib.md5(usedforsecurity=False)
    for chunk in chunks:
        total.update(chunk)
    return encoded(total.digest())


def manifest_digest(entries: Mapping[str, str]) -> str:
    """The digest of an artifact: path → entry digest, for all its entries."""
    total = hashlib.md5(MANIFEST_HEADER, usedforsecurity=False)
    for path in sorted(entries):
        total.update(f"{path}:{entries[path]}\n".encode())
    return total.hexdigest()


def encoded(md5: bytes) -> str:
    """The 16 bytes of an MD5 as entries and `Content-MD5` write them."""
    return base64.b64encode(md5).decode("ascii")


def decoded(digest: str) -> bytes:
    """The 16 bytes that an entry's digest stands for.

    Raises:
        InvalidInputError: it is not the base64 form of an MD5.
    """
    try:
        md5 = base64.b64decode(digest, validate=True)
    except (binascii.Error, ValueError):
        md5 = b""
    if len(md5) != _MD5_BYTES or encoded(md5) != digest:
        message = f"'{digest[:64]}' is not a digest of an artifact's file."
        raise InvalidInputError(message, hint="It is the base64 form of 16 bytes of MD5.")
    return md5
