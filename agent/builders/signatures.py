"""Ready images must be signed: `ImagePort` that admits only what a configured key has signed.

Signatures are read where `cosign sign --key` of version 2 stores them (later ones with
`--new-bundle-format=false`): under the tag `sha256-<digest>.sig` beside the image. Each is over a
small document that names the digest.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from agent.model.cause import Cause
from agent.model.errors import ConfigError, PolicyError
from agent.model.work import Image
from agent.ports.builder import ImagePort
from agent.ports.log import LogSink, write_line
from agent.ports.registry import ImageSignature, RegistryPort

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

_KINDS: Final = (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey, rsa.RSAPublicKey)


def read_keys(files: Sequence[Path]) -> tuple[PublicKey, ...]:
    """Public keys from PEM files. Blocks.

    Raises:
        ConfigError: one cannot be read, or is no public key of a kind that cosign uses.
    """
    keys: list[PublicKey] = []
    for file in files:
        try:
            key = serialization.load_pem_public_key(file.read_bytes())
        except (OSError, ValueError) as error:
            message = f"`sources.image_keys`: {file} cannot be read as a public key ({error})."
            raise ConfigError(message, hint="`cosign public-key` prints one.") from error
        if not isinstance(key, _KINDS):
            raise ConfigError(f"`sources.image_keys`: {file} is not an ECDSA, Ed25519 or RSA key.")
        keys.append(key)
    return tuple(keys)


class SignedImages:
    """Admits what `images` resolves to, if one of `keys` has signed that digest."""

    def __init__(
        self, images: ImagePort, registry: RegistryPort, keys: Sequence[PublicKey]
    ) -> None:
        self._images = images
        self._registry = registry
        self._keys = keys

    async def resolve(self, reference: str, log: LogSink) -> Image:
        """See `ImagePort`.

        Raises:
            PolicyError: `POLICY_SOURCE`: not signed by one of the keys, or not in a registry.
        """
        image = await self._images.resolve(reference, log)
        repository, _, digest = image.reference.partition("@")
        found = await self._registry.signatures(repository, digest) if digest else ()
        if not any(self._holds(one, digest) for one in found):
            why = f"it has {len(found)} signatures, none by a key that this agent trusts"
            if not digest:
                why = "it has no digest of a registry, where signatures are"
            raise PolicyError(
                Cause.POLICY_SOURCE,
                f"Image '{image.name or reference}' is not signed as this agent requires: {why}.",
                hint="Sign it with `cosign sign --key`, or name an image that is signed.",
            )
        await write_line(log, f"image {image.reference} is signed by a key of `image_keys`")
        return image

    def _holds(self, signature: ImageSignature, digest: str) -> bool:
        return _signed_digest(signature.payload) == digest and any(
            _verifies(key, signature) for key in self._keys
        )


def _signed_digest(payload: bytes) -> str | None:
    """The digest that a signed document is about; `None` where it is no such document."""
    try:
        critical = json.loads(payload)["critical"]
        if critical["type"] != "cosign container image signature":
            return None
        return str(critical["image"]["docker-manifest-digest"])
    except (ValueError, KeyError, TypeError):
        return None


def _verifies(key: PublicKey, given: ImageSignature) -> bool:
    sha256 = hashes.SHA256()
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(given.signature, given.payload, ec.ECDSA(sha256))
            case ed25519.Ed25519PublicKey():
                key.verify(given.signature, given.payload)
            case rsa.RSAPublicKey():
                key.verify(given.signature, given.payload, padding.PKCS1v15(), sha256)
    except InvalidSignature:
        return False
    return True
