"""Any registry, by the OCI distribution API: digests and configurations of images.

Servers say how they want a login: `Basic` takes user and password with the request, `Bearer`
names a server that gives a short-lived token for them. Nothing is sent before it is asked for.
Which image is asked for: `builders/image/repository.py`.
"""

import base64
import binascii
import hashlib
import json
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
from multidict import CIMultiDictProxy

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.job.image_reference import ImageReference, parse_image
from agent.ports.registry import Credentials, ImageSignature, RegistryImage
from agent.registries.authorization import (
    Challenge,
    base_url,
    basic,
    fetch_token,
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
#: The key of an annotation under which cosign stores a signature, and how many are read.
_SIGNATURE: Final = "dev.cosignproject.cosign/signature"
_MAX_SIGNATURES: Final = 10
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_RESPONSE_BYTES: Final = 4 * 1024**2
_TIMEOUT: Final = 30.0
_OK: Final = 200
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404


class OciRegistry:
    """`RegistryPort` over HTTP; the first of `logins` that has one counts.

    Registries on loopback use plain HTTP, as with every engine.
    """

    def __init__(
        self,
        logins: Sequence[LoginSource],
        environment: Mapping[str, str],
        *,
        ca_bundle: Path | None = None,
        timeout: float = _TIMEOUT,
    ) -> None:
        self._logins = logins
        self._environment = environment
        self._ca_bundle = ca_bundle
        self._timeout = aiohttp.ClientTimeout(total=timeout)
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
        with _unavailable(image):
            path = f"manifests/{image.pulled_as}"
            status, headers, _ = await self._call("HEAD", image, path)
            if status == _NOT_FOUND:
                return None
            named = headers.get("Docker-Content-Digest", "")
            if _DIGEST.fullmatch(named):
                return named
            # Registries need not name it: then it is that of the manifest's bytes.
            _, _, body = await self._call("GET", image, path)
            return _digest_of(body)

    async def inspect(self, reference: str, platform: str) -> RegistryImage | None:
        """See `RegistryPort`."""
        image = parse_image(reference)
        with _unavailable(image):
            status, headers, body = await self._call("GET", image, f"manifests/{image.pulled_as}")
            if status == _NOT_FOUND:
                return None
            named = headers.get("Docker-Content-Digest", "")
            digest = named if _DIGEST.fullmatch(named) else _digest_of(body)
            manifest = _json_object(image, body)
            if "manifests" in manifest:
                child = _choose(image, manifest["manifests"], platform)
                _, _, body = await self._call("GET", image, f"manifests/{child}")
                manifest = _json_object(image, body)
            config = str((manifest.get("config") or {}).get("digest"))
            _, _, body = await self._call("GET", image, f"blobs/{config}")
            return _registry_image(digest, _json_object(image, body))

    async def signatures(self, repository: str, digest: str) -> tuple[ImageSignature, ...]:
        """See `RegistryPort`."""
        image = parse_image(f"{repository}:{digest.replace(':', '-')}.sig")
        found: list[ImageSignature] = []
        with _unavailable(image):
            status, _, body = await self._call("GET", image, f"manifests/{image.pulled_as}")
            layers = [] if status == _NOT_FOUND else _json_object(image, body).get("layers") or []
            for layer in layers[:_MAX_SIGNATURES]:
                try:
                    text = layer["annotations"][_SIGNATURE]
                    signature = base64.b64decode(text, validate=True)
                    blob = layer["digest"]
                except (KeyError, TypeError, binascii.Error):
                    continue
                if not isinstance(blob, str) or not _DIGEST.fullmatch(blob):
                    continue
                _, _, payload = await self._call("GET", image, f"blobs/{blob}")
                found.append(ImageSignature(payload, signature))
        return tuple(found)

    async def _call(
        self, method: str, image: ImageReference, path: str
    ) -> tuple[int, CIMultiDictProxy[str], bytes]:
        """Status (200 or 404), headers and body, with the login that the registry requires."""
        headers: dict[str, str] = {}
        status, answered, body = await self._request(method, image, path, headers)
        challenge = read_challenge(answered) if status == _UNAUTHORIZED else None
        if challenge is not None:
            headers = await self._authorized(image, challenge)
            status, answered, body = await self._request(method, image, path, headers)
        if status in {_UNAUTHORIZED, _FORBIDDEN}:
            raise _refused(image)
        if status not in {_OK, _NOT_FOUND}:
            raise _failed(image, f"it responds with status {status}")
        return status, answered, body

    async def _request(
        self, method: str, image: ImageReference, path: str, headers: Mapping[str, str]
    ) -> tuple[int, CIMultiDictProxy[str], bytes]:
        url = f"{base_url(image.host)}/v2/{_path(image)}/{path}"
        async with self._connections.session.request(
            method,
            url,
            headers={"Accept": _TYPES, **headers},
            proxy=proxy_for(url, self._environment),
        ) as response:
            body = b""
            while len(body) <= _MAX_RESPONSE_BYTES and not response.content.at_eof():
                body += await response.content.read(_MAX_RESPONSE_BYTES + 1 - len(body))
        if len(body) > _MAX_RESPONSE_BYTES:
            raise _failed(
                image, f"its manifest is larger than {_MAX_RESPONSE_BYTES // 1024**2} MiB"
            )
        return response.status, response.headers, body

    async def _authorized(self, image: ImageReference, challenge: Challenge) -> dict[str, str]:
        login = await self.credentials(image.repository)
        if challenge.scheme == "basic":
            if login is None:
                raise _refused(image)
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
            raise _refused(image)
        return {"Authorization": f"Bearer {token}"}

    def _open(self) -> aiohttp.ClientSession:
        tls = ssl.create_default_context()
        if self._ca_bundle is not None:
            tls.load_verify_locations(cafile=str(self._ca_bundle))
        return aiohttp.ClientSession(timeout=self._timeout, connector=aiohttp.TCPConnector(ssl=tls))


def _path(image: ImageReference) -> str:
    """Docker Hub keeps its own images below `library`."""
    if image.on_docker_hub and "/" not in image.path:
        return f"library/{image.path}"
    return image.path


def _refused(image: ImageReference) -> JobError:
    return JobError(
        Cause.IMAGE_AUTH,
        f"The registry of '{image.repository}' refuses the agent's login.",
        hint="Log the agent's machine in with `docker login`.",
    )


def _failed(image: ImageReference, why: str) -> JobError:
    return JobError(
        Cause.IMAGE_UNAVAILABLE,
        f"The registry of '{image.repository}' does not respond as one: {why.rstrip('.')}.",
        hint="Check `builder.destination` and the network of the agent's machine.",
    )


@contextmanager
def _unavailable(image: ImageReference) -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _failed(image, str(error) or "no response in time") from None


def _digest_of(manifest: bytes) -> str:
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def _json_object(image: ImageReference, body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _failed(image, "its response is no JSON object")
    return found


def _choose(image: ImageReference, manifests: list[dict[str, Any]], platform: str) -> str:
    """Digest of the manifest for a platform."""
    found: dict[str, str] = {}
    for each in manifests:
        where = each.get("platform") or {}
        found.setdefault(f"{where.get('os')}/{where.get('architecture')}", str(each.get("digest")))
    if platform not in found:
        known = ", ".join(sorted(name for name in found if "unknown" not in name))
        raise JobError(
            Cause.IMAGE_PLATFORM,
            f"Image '{image}' does not exist for {platform}.",
            hint=f"It exists for {known}.",
        )
    return found[platform]


def _registry_image(digest: str, config: dict[str, Any]) -> RegistryImage:
    run = config.get("config") or {}
    return RegistryImage(
        digest,
        str(config.get("os") or ""),
        str(config.get("architecture") or ""),
        tuple(run.get("Entrypoint") or ()),
        tuple(run.get("Cmd") or ()),
        str(run.get("User") or ""),
    )
