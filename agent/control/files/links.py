"""Signed addresses: whoever has one may do the one thing that it was made for, for a while."""

import base64
import hashlib
import hmac
import time
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import quote

from agent.model.errors import PermissionDeniedError

Verb = Literal["read", "write"]
CONTENT_PATH: Final = "/storage/contents/{entity}/{md5}/{name}"
RUN_FILE_PATH: Final = "/storage/run-files/{entity}/{run}/{name:.+}"
_EXPIRED: Final = "Ask for a new address: run the command again."


@dataclass(frozen=True, slots=True)
class Links:
    """Makes and checks addresses; `base` is the name that the caller knows this server by."""

    key: bytes = field(repr=False)
    base: str
    #: Seconds.
    lifetime: float

    def content(self, verb: Verb, entity: str, md5: str, path: str) -> str:
        """The address of a content; the path's last part is told for people and programs."""
        last = path.rsplit("/", 1)[-1]
        name = "file" if last in {"", ".", ".."} else last
        where = f"/storage/contents/{quote(entity)}/{md5}/{quote(name, safe='')}"
        return self._signed(where, (verb, "content", entity, md5))

    def run_file(self, verb: Verb, entity: str, run: str, name: str) -> str:
        """The address of a run's file."""
        where = f"/storage/run-files/{quote(entity)}/{run}/{quote(name)}"
        return self._signed(where, (verb, "run-file", entity, run, name))

    def check(self, subject: tuple[str, ...], expires: str, signature: str) -> None:
        """Let pass whoever shows an address that was made for this and is still good.

        Raises:
            PermissionDeniedError
        """
        right = _signature(self.key, subject, expires)
        if not hmac.compare_digest(right.encode(), signature.encode(errors="replace")):
            message = "The signature of this address is not right."
            raise PermissionDeniedError(message, hint=_EXPIRED)
        if int(expires) < time.time():
            raise PermissionDeniedError("This address is good no more.", hint=_EXPIRED)

    def _signed(self, where: str, subject: tuple[str, ...]) -> str:
        expires = str(int(time.time() + self.lifetime))
        signature = _signature(self.key, subject, expires)
        return f"{self.base}{where}?expires={expires}&signature={signature}"


def _signature(key: bytes, subject: tuple[str, ...], expires: str) -> str:
    text = "\n".join(("launch-link", *subject, expires))
    digest = hmac.digest(key, text.encode(errors="surrogatepass"), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
