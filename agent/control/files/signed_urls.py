"""Signed URLs: each allows its holder one operation on one object until it expires."""

import base64
import hashlib
import hmac
import re
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal
from urllib.parse import quote, unquote

from agent.control.auth.signing import SigningKeys
from agent.model.errors import InvalidInputError, PermissionDeniedError

Verb = Literal["read", "write"]
CONTENT_PATH: Final = "/storage/contents/{entity}/{md5}/{name}"
RUN_FILE_PATH: Final = "/storage/run-files/{entity}/{run}/{name:.+}"
_CONTENT: Final = re.compile(
    r".*/storage/contents/([^/?]+)/([0-9a-f]{32})/[^/?]+\?expires=([0-9]{1,15})&signature=([^&]*)"
)
_NEW_URL: Final = "Run the command again, which asks for a new URL."


@dataclass(frozen=True, slots=True)
class SignedUrls:
    """Makes and checks signed URLs."""

    keys: SigningKeys = field(repr=False)
    #: Scheme and host by which the caller reaches this server.
    base: str
    #: Seconds.
    lifetime: float

    def content(self, verb: Verb, entity: str, md5: str, path: str) -> str:
        """The URL of a content; it ends with the file's name, for downloads."""
        last = path.rsplit("/", 1)[-1]
        name = "file" if last in {"", ".", ".."} else last
        where = f"/storage/contents/{quote(entity)}/{md5}/{quote(name, safe='', errors='replace')}"
        return self._signed(where, (verb, "content", entity, md5))

    def run_file(self, verb: Verb, entity: str, run: str, name: str) -> str:
        """The URL of a run's file."""
        where = f"/storage/run-files/{quote(entity)}/{run}/{quote(name)}"
        return self._signed(where, (verb, "run-file", entity, run, name))

    def writable_content(self, address: str) -> tuple[str, str]:
        """Entity and MD5 of the content that may be written with a signed URL.

        Raises:
            InvalidInputError: not the URL of a content.
            PermissionDeniedError: as `check`.
        """
        found = _CONTENT.fullmatch(address)
        if found is None:
            message = f"'{address[:80]}' is not the signed URL of a content."
            raise InvalidInputError(message, hint="Use the `uploadUrl` of the file as it is.")
        entity, md5 = unquote(found[1]), found[2]
        self.check(("write", "content", entity, md5), found[3], found[4])
        return entity, md5

    def check(self, subject: tuple[str, ...], expires: str, signature: str) -> None:
        """Check that a URL was signed for this subject and has not expired.

        Raises:
            PermissionDeniedError
        """
        given = signature.encode(errors="replace")
        expected = [_signature(key, subject, expires).encode() for key in self.keys.keys]
        if not any(hmac.compare_digest(one, given) for one in expected):
            message = "The signature of this URL is wrong."
            raise PermissionDeniedError(message, hint=_NEW_URL)
        if int(expires) < time.time():
            raise PermissionDeniedError("This URL has expired.", hint=_NEW_URL)

    def _signed(self, where: str, subject: tuple[str, ...]) -> str:
        expires = str(int(time.time() + self.lifetime))
        signature = _signature(self.keys.current, subject, expires)
        return f"{self.base}{where}?expires={expires}&signature={signature}"


def _signature(key: bytes, subject: tuple[str, ...], expires: str) -> str:
    text = "\n".join(("launch-link", *subject, expires))
    mac = _hmac(key).copy()
    mac.update(text.encode(errors="surrogatepass"))
    return base64.urlsafe_b64encode(mac.digest()).rstrip(b"=").decode()


@lru_cache(maxsize=4)
def _hmac(key: bytes) -> hmac.HMAC:
    """To be copied: a new one costs more than the rest, for a thousand files at a time."""
    return hmac.new(key, digestmod=hashlib.sha256)
