"""Certificate authorities of the tests' own, and certificates that they sign."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import debian
from .process import Argv, run, succeeds

_DAYS = "365"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_LOOPBACK = "IP:127.0.0.1,DNS:localhost"


@dataclass(frozen=True)
class Certificate:
    """PEM files: the authority's certificate, the bearer's certificate and its key."""

    authority: Path
    chain: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """An authority whose certificate is `ca.pem` in `directory`; its key exists while in use."""

    directory: Path
    key: Path

    def sign(
        self,
        bearer: str,
        *,
        subject: str = "/CN=localhost",
        names: str = _LOOPBACK,
        usage: str = "serverAuth",
    ) -> Certificate:
        """Make `<bearer>.pem` and `<bearer>.key`; `names` as openssl's subjectAltName."""
        chain, key = self.directory / f"{bearer}.pem", self.directory / f"{bearer}.key"
        made = Certificate(self.directory / "ca.pem", chain, key)
        request, extensions = chain.with_suffix(".csr"), chain.with_suffix(".ext")
        extensions.write_text(
            f"subjectAltName={names}\nbasicConstraints=critical,CA:FALSE\n"
            f"extendedKeyUsage={usage}\n"
        )
        output: Argv = ["-keyout", key, "-out", request]
        run(["openssl", "req", "-new", *_KEY, "-subj", subject, *output])
        signer: Argv = ["-CA", made.authority, "-CAkey", self.key, "-CAcreateserial"]
        sign: Argv = ["openssl", "x509", "-req", "-days", _DAYS, "-in", request, *signer]
        run([*sign, "-extfile", extensions, "-out", chain])
        request.unlink()
        extensions.unlink()
        return made


def make(directory: Path) -> Certificate:
    """Make an authority and a server's certificate for loopback."""
    with authority(directory) as signer:
        return signer.sign("server")


def make_mutual(directory: Path) -> tuple[Certificate, Certificate]:
    """Make the same, and a client's certificate by the same authority."""
    with authority(directory) as signer:
        return signer.sign("server"), signer.sign("client", usage="clientAuth")


@contextmanager
def authority(directory: Path) -> Iterator[Authority]:
    """Make an authority; its own key is removed at the end."""
    if not succeeds(["openssl", "version"]):
        debian.install("openssl")
    key = directory / "ca.key"
    of_authority: Argv = ["-addext", "keyUsage=critical,keyCertSign", "-subj", "/CN=launch tests"]
    output: Argv = ["-keyout", key, "-out", directory / "ca.pem"]
    run(["openssl", "req", "-x509", *_KEY, "-days", _DAYS, *of_authority, *output])
    try:
        yield Authority(directory, key)
    finally:
        key.unlink()
