"""A certificate authority of the tests' own and a server certificate for loopback."""

from dataclasses import dataclass
from pathlib import Path

from . import debian
from .process import Argv, run, succeeds

_DAYS = "365"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_LEAF = (
    "subjectAltName=IP:127.0.0.1,DNS:localhost\n"
    "basicConstraints=critical,CA:FALSE\n"
    "extendedKeyUsage=serverAuth\n"
)


@dataclass(frozen=True)
class Certificate:
    """PEM files: the authority's certificate, the server's certificate and its key."""

    authority: Path
    chain: Path
    key: Path


def make(directory: Path) -> Certificate:
    """Make both in `directory`; the authority's own key is thrown away."""
    if not succeeds(["openssl", "version"]):
        debian.install("openssl")
    made = Certificate(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    authority_key, request = directory / "ca.key", directory / "server.csr"
    extensions = directory / "server.ext"
    extensions.write_text(_LEAF)
    of_authority: Argv = ["-addext", "keyUsage=critical,keyCertSign", "-subj", "/CN=launch tests"]
    output: Argv = ["-keyout", authority_key, "-out", made.authority]
    run(["openssl", "req", "-x509", *_KEY, "-days", _DAYS, *of_authority, *output])
    output = ["-keyout", made.key, "-out", request]
    run(["openssl", "req", "-new", *_KEY, "-subj", "/CN=localhost", *output])
    signer: Argv = ["-CA", made.authority, "-CAkey", authority_key, "-CAcreateserial"]
    sign: Argv = ["openssl", "x509", "-req", "-days", _DAYS, "-in", request, *signer]
    run([*sign, "-extfile", extensions, "-out", made.chain])
    for spent in (authority_key, request, extensions):
        spent.unlink()
    return made
