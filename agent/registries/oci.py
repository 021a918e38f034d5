"""Any registry, by the OCI distribution API: is this tag there, and under which digest?

Servers say how they want a login: `Basic` takes user and password with the request, `Bearer`
names a server that gives a short-lived token for them. Nothing is sent before it is asked for.
"""

import hashlib
import re
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import aiohttp

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.job.image_reference import ImageReference, parse_image
from agent.ports.registry import Credentials
from agent.registries.authorization import (
    Challenge,
    base_url,
    basic,
    fetch_token,
    is_hub,
    proxy_for,
    read_challenge,
)
from agent.registries.logins import LoginSource
from agent.system.lazy_session import LazySession

_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_LARGEST_MANIFEST: Final = 4 * 1024**2
_PATIENCE: Final = 30.0
_OK: Final = 200
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404


class OciRegistry:
    """`RegistryPort` over HTTP; `logins` are asked in order.

    Registries on loopback are spoken to in plain HTTP, as every engine does.
    """

    def __init__(
        self,
        logins: Sequence[LoginSource],
        environment: Mapping[str, str],
        *,
        ca_bundle: Path | None = None,
        patience: float = _PATIENCE,
    ) -> None:
        self._logins = logins
        self._environment = environment
        self._ca_bundle = ca_bundle
        self._timeout = aiohttp.ClientTimeout(total=patience)
        self._connections = LazySession(self._open)

    async def close(self) -> None:
        """Close all connections; legal twice."""
        await self._connections.close()

    async def credentials(self, repository: str) -> Credentials | None:
        """See `RegistryPort`."""
        for source in self._logins:
            found = await source.login(repository)
            if found is not None:
                return found
        return None

    async def exists(self, reference: str) -> str | None:
        """See `RegistryPort`."""
        image = parse_image(reference)
        try:
            return await self._look(image)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _away(image, str(error) or "no answer in time") from None

    async def _look(self, image: ImageReference) -> str | None:
        answer = await self._ask("HEAD", image, {})
        challenge = read_challenge(answer.headers) if answer.status == _UNAUTHORIZED else None
        headers: dict[str, str] = {}
        if challenge is not None:
            headers = await self._authorized(image, challenge)
            answer = await self._ask("HEAD", image, headers)
        if answer.status == _NOT_FOUND:
            return None
        if answer.status in {_UNAUTHORIZED, _FORBIDDEN}:
            raise _no_entry(image)
        if answer.status != _OK:
            raise _away(image, f"it answers {answer.status} {answer.reason}")
        named = answer.headers.get("Docker-Content-Digest", "")
        return named if _DIGEST.fullmatch(named) else await self._digest(image, headers)

    async def _ask(
        self, method: str, image: ImageReference, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        base = base_url(image.host)
        url = f"{base}/v2/{_path(image)}/manifests/{image.pulled_as}"
        answer = await self._connections.session.request(
            method,
            url,
            headers={"Accept": _TYPES, **headers},
            proxy=proxy_for(url, self._environment),
        )
        if method == "HEAD":
            answer.release()
        return answer

    async def _digest(self, image: ImageReference, headers: Mapping[str, str]) -> str:
        """Registries need not name it: then it is that of the manifest's bytes."""
        answer = await self._ask("GET", image, headers)
        async with answer:
            body = await answer.content.read(_LARGEST_MANIFEST + 1)
            while len(body) <= _LARGEST_MANIFEST and not answer.content.at_eof():
                body += await answer.content.read(_LARGEST_MANIFEST + 1 - len(body))
        if answer.status != _OK or len(body) > _LARGEST_MANIFEST:
            raise _away(image, "it neither names a digest nor sends a manifest")
        return f"sha256:{hashlib.sha256(body).hexdigest()}"

    async def _authorized(self, image: ImageReference, challenge: Challenge) -> dict[str, str]:
        login = await self.credentials(image.repository)
        if challenge.scheme == "basic":
            if login is None:
                raise _no_entry(image)
            return {"Authorization": basic(login.username, login.password)}
        token = await fetch_token(
            self._connections.session,
            challenge,
            login,
            _path(image),
            base_url(image.host),
            self._environment,
        )
        if token is None:
            raise _no_entry(image)
        return {"Authorization": f"Bearer {token}"}

    def _open(self) -> aiohttp.ClientSession:
        tls = ssl.create_default_context()
        if self._ca_bundle is not None:
            tls.load_verify_locations(cafile=str(self._ca_bundle))
        return aiohttp.ClientSession(timeout=self._timeout, connector=aiohttp.TCPConnector(ssl=tls))


def _path(image: ImageReference) -> str:
    """Docker Hub keeps its own images below `library`."""
    if is_hub(image.host) and "/" not in image.path:
        return f"library/{image.path}"
    return image.path


def _no_entry(image: ImageReference) -> JobError:
    return JobError(
        Cause.IMAGE_AUTH,
        f"The registry of '{image.repository}' does not let the agent in.",
        hint="Log the agent's machine in with `docker login`.",
    )


def _away(image: ImageReference, why: str) -> JobError:
    return JobError(
        Cause.IMAGE_UNAVAILABLE,
        f"The registry of '{image.repository}' cannot be asked: {why.rstrip('.')}.",
        hint="Check `builder.destination` and the network of the agent's machine.",
    )
