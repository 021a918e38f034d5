"""A certificate authority of the tests' own and certificates for loopback by it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import debian
from .process import Argv, run, succeeds

_DAYS = "365"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True)
class Certificate:
    """PEM files: the authority's certificate, the bearer's certificate and its key."""

    authority: Path
    chain: Path
    key: Path


def make(directory: Path) -> Certificate:
    """Make an authority and a server's certificate; the authority's own key is thrown away."""
    with _authority(directory) as authority:
        return _signed(directory, authority, "server")


def make_mutual(directory: Path) -> tuple[Certificate, Certificate]:
    """Make the same, and a client's certificate by the same authority."""
    with _authority(directory) as authority:
        return _signed(directory, authority, "server"), _signed(directory, authority, "client")


@contextmanager
def _authority(directory: Path) -> Iterator[Path]:
    """Make `ca.pem` and give its key while it is needed."""
    if not succeeds(["openssl", "version"]):
        debian.install("openssl")
    key = directory / "ca.key"
    of_authority: Argv = ["-addext", "keyUsage=critical,keyCertSign", "-subj", "/CN=launch tests"]
    output: Argv = ["-keyout", key, "-out", directory / "ca.pem"]
    run(["openssl", "req", "-x509", *_KEY, "-days", _DAYS, *of_authority, *output])
    try:
        yield key
    finally:
        key.unlink()


def _signed(directory: Path, authority_key: Path, bearer: str) -> Certificate:
    """Make and sign a certificate for a `server` or a `client`."""
    chain, key = directory / f"{bearer}.pem", directory / f"{bearer}.key"
    made = Certificate(directory / "ca.pem", chain, key)
    request, extensions = directory / f"{bearer}.csr", directory / f"{bearer}.ext"
    extensions.write_text(
        "subjectAltName=IP:127.0.0.1,DNS:localhost\n"
        "basicConstraints=critical,CA:FALSE\n"
        f"extendedKeyUsage={bearer}Auth\n"
    )
    output: Argv = ["-keyout", key, "-out", request]
    run(["openssl", "req", "-new", *_KEY, "-subj", "/CN=localhost", *output])
    signer: Argv = ["-CA", made.authority, "-CAkey", authority_key, "-CAcreateserial"]
    sign: Argv = ["openssl", "x509", "-req", "-days", _DAYS, "-in", request, *signer]
    run([*sign, "-extfile", extensions, "-out", chain])
    request.unlink()
    extensions.unlink()
    return made
