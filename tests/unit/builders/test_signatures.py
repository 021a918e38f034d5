"""Only images that a configured key has signed; signatures are stored as cosign does it."""

import base64
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519

from agent.builders.prebuilt import RegistryImages, only_signed
from agent.model.cause import Cause
from agent.model.errors import ConfigError, PolicyError
from agent.model.work import Image
from agent.registries.oci import OciRegistry
from agent.testing.builder_suite import RecordingLog

DIGEST, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
KINDS = {
    "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
}


def signed(key, payload: bytes) -> bytes:
    match key:
        case ec.EllipticCurvePrivateKey():
            return key.sign(payload, ec.ECDSA(hashes.SHA256()))
        case rsa.RSAPrivateKey():
            return key.sign(payload, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(payload)


def document(digest: str = DIGEST, kind: str = "cosign container image signature") -> bytes:
    image = {"docker-manifest-digest": digest}
    identity = {"docker-reference": "r.example/tool"}
    critical = {"identity": identity, "image": image, "type": kind}
    return json.dumps({"critical": critical, "optional": None}).encode()


class Shelf:
    """A registry with one image, and what was stored beside it: layers and blobs."""

    def __init__(self) -> None:
        self.layers: list[object] = []
        self.blobs: dict[str, bytes] = {}
        self.host = ""

    def store(self, payload: bytes, signature: bytes) -> None:
        digest = f"sha256:{hashes_of(payload)}"
        self.blobs[digest] = payload
        text = base64.b64encode(signature).decode()
        annotations = {"dev.cosignproject.cosign/signature": text}
        self.layers.append({"digest": digest, "annotations": annotations})

    async def answer(self, request: web.Request) -> web.Response:
        kind, name = request.match_info["kind"], request.match_info["name"]
        if kind == "blobs":
            return web.Response(body=self.blobs[name])
        if name == "1":
            return web.Response(headers={"Docker-Content-Digest": DIGEST})
        if name == f"{DIGEST.replace(':', '-')}.sig" and self.layers:
            return web.json_response({"schemaVersion": 2, "layers": self.layers})
        return web.Response(status=404)


def hashes_of(payload: bytes) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(payload)
    return digest.finalize().hex()


@pytest.fixture
async def shelf():
    made = Shelf()
    app = web.Application()
    app.router.add_route("*", "/v2/tool/{kind}/{name}", made.answer)
    async with TestServer(app) as server:
        made.host = f"127.0.0.1:{server.port}"
        yield made


@pytest.fixture
async def resolve(shelf, tmp_path):
    """Resolves the image of the shelf by an agent that trusts these keys."""
    registry = OciRegistry([], {})

    async def of(*keys, images=None) -> Image:
        files = []
        for number, key in enumerate(keys):
            files.append(tmp_path / f"{number}.pub")
            form = serialization.PublicFormat.SubjectPublicKeyInfo
            files[-1].write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
        made = only_signed(images or RegistryImages(registry, None), registry, files)
        return await made.resolve(f"{shelf.host}/tool:1", RecordingLog())

    yield of
    await registry.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_an_image_that_a_trusted_key_has_signed_is_used(shelf, resolve, kind: str) -> None:
    key, stranger = KINDS[kind](), KINDS["ecdsa"]()
    payload = document()
    shelf.store(payload, signed(stranger, payload))
    shelf.store(payload, signed(key, payload))
    assert (await resolve(key)).reference == f"{shelf.host}/tool@{DIGEST}"
    assert (await resolve(KINDS["ecdsa"](), key)).pinned_by == "digest"


async def test_without_keys_signatures_are_not_asked_for(shelf, resolve) -> None:
    assert (await resolve()).reference == f"{shelf.host}/tool@{DIGEST}"


KEY = KINDS["ecdsa"]()
BAD = {
    "of a stranger": (document(), signed(KINDS["ecdsa"](), document())),
    "of another kind of key": (document(), signed(KINDS["rsa"](), document())),
    "of another image": (document(OTHER), signed(KEY, document(OTHER))),
    "of another document": (document(), signed(KEY, document(OTHER))),
    "with one bit changed": (document(), signed(KEY, document())[:-1] + b"\x00"),
    "of a document of another type": (document(kind="x"), signed(KEY, document(kind="x"))),
    "of no document": (b"[1]", signed(KEY, b"[1]")),
    "of no JSON": (DIGEST.encode(), signed(KEY, DIGEST.encode())),
    "that is empty": (document(), b""),
}


@pytest.mark.parametrize("bad", BAD)
async def test_an_image_with_a_signature_that_counts_not_is_refused(
    shelf, resolve, bad: str
) -> None:
    shelf.store(*BAD[bad])
    with pytest.raises(PolicyError, match="is not signed as this agent requires") as caught:
        await resolve(KEY)
    assert caught.value.cause is Cause.POLICY_SOURCE


@pytest.mark.parametrize(
    "layer",
    [
        {},
        7,
        {"digest": DIGEST, "annotations": {"dev.cosignproject.cosign/signature": "!"}},
        {"digest": "../x", "annotations": {"dev.cosignproject.cosign/signature": "AAAA"}},
        {"digest": 1, "annotations": {"dev.cosignproject.cosign/signature": "AAAA"}},
    ],
    ids=str,
)
async def test_what_is_no_signature_at_all_is_passed_over(shelf, resolve, layer: object) -> None:
    shelf.layers.append(layer)
    with pytest.raises(PolicyError, match="it has 0 signatures"):
        await resolve(KEY)
    payload = document()
    shelf.store(payload, signed(KEY, payload))
    assert (await resolve(KEY)).pinned_by == "digest"


async def test_an_image_without_any_is_refused_and_one_of_this_machine_too(shelf, resolve) -> None:
    with pytest.raises(PolicyError, match="it has 0 signatures"):
        await resolve(KEY)

    class Local:
        async def resolve(self, reference, _log) -> Image:
            return Image(DIGEST, "image-id", reused=True, name=reference)

    with pytest.raises(PolicyError, match="no digest of a registry"):
        await resolve(KEY, images=Local())


@pytest.mark.parametrize("text", ["", "no key", "x25519"])
def test_a_key_that_cannot_be_used_is_named(tmp_path, text: str) -> None:
    file = tmp_path / "key.pub"
    if text == "x25519":
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        key = x25519.X25519PrivateKey.generate().public_key()
        text = key.public_bytes(serialization.Encoding.PEM, form).decode()
    file.write_text(text)
    with pytest.raises(ConfigError, match=str(file)):
        only_signed(RegistryImages(OciRegistry([], {}), None), OciRegistry([], {}), [file])
