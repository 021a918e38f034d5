"""Certificates of one server and its one client: others are refused, by both sides."""

import ssl
from datetime import timedelta
from pathlib import Path

import pytest

from agent.system.mutual_tls import MutualTls, make_mutual_tls

NAME = "buildkitd"


@pytest.fixture(scope="module")
def made() -> MutualTls:
    return make_mutual_tls(NAME, timedelta(hours=1))


def context(side: dict[str, bytes], folder: Path, *, serves: bool) -> ssl.SSLContext:
    folder.mkdir()
    for name, data in side.items():
        (folder / name).write_bytes(data)
    chosen = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH if serves else ssl.Purpose.SERVER_AUTH, cafile=folder / "ca.pem"
    )
    chosen.verify_mode = ssl.CERT_REQUIRED
    chosen.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return chosen


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str = NAME) -> None:
    """A handshake in memory; raises what either side has against the other."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(up, down, server_side=True),
        client.wrap_bio(down, up, server_hostname=name),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
                end.read()
            except ssl.SSLWantReadError:
                continue


def test_both_sides_know_each_other(made: MutualTls, tmp_path: Path) -> None:
    server = context(made.server, tmp_path / "server", serves=True)
    shake(server, context(made.client, tmp_path / "client", serves=False))


def test_a_client_of_another_authority_is_refused(made: MutualTls, tmp_path: Path) -> None:
    server = context(made.server, tmp_path / "server", serves=True)
    other = make_mutual_tls(NAME, timedelta(hours=1))
    mixed = {**other.client, "ca.pem": made.client["ca.pem"]}
    with pytest.raises(ssl.SSLError):
        shake(server, context(mixed, tmp_path / "client", serves=False))


def test_the_server_cannot_act_as_the_client(made: MutualTls, tmp_path: Path) -> None:
    """A step of a build that gets at the daemon's own key must not build with it."""
    server = context(made.server, tmp_path / "server", serves=True)
    with pytest.raises(ssl.SSLError):
        shake(server, context(made.server, tmp_path / "client", serves=False))


def test_a_server_of_another_name_is_refused(made: MutualTls, tmp_path: Path) -> None:
    server = context(made.server, tmp_path / "server", serves=True)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server, context(made.client, tmp_path / "client", serves=False), "another")
