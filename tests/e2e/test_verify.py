"""`wandb verify` of the unmodified client 0.31.0, over HTTPS, and what it leaves behind."""

import ssl
from pathlib import Path

from tests.e2e.harness.home import Home
from tests.e2e.harness.proxy import Proxy
from tests.e2e.harness.wandb_runs import wandb_user
from tests.infrastructure import certificates
from tests.infrastructure.process import free_port

SWEEPS = """query { project(name: "verify") { totalSweeps sweeps { edges { node {
    name displayName method state config bestLoss runCount runCountExpected
    runs { edges { node { state sweepName config summaryMetrics } } } } } } } }"""
CHECKS = (
    "Checking if logged in",
    "Checking signed URL upload",
    "Checking ability to send large payloads through proxy",
    "Checking requests to base url",
    "Checking requests made over signed URLs",
    "Checking CORs configuration of the bucket",
    "Checking wandb package version is up to date",
    "Checking logged metrics, saving and downloading a file",
    "Checking artifact save and download workflows",
    "Checking sweep creation and agent execution",
)


async def test_verify_finds_nothing_wrong(home: Home, tmp_path: Path) -> None:
    """Each check passes; its sweep of nine runs is stored, readable and finished."""
    folder = tmp_path / "tls"
    folder.mkdir()
    certificate = certificates.make(folder)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate.chain, certificate.key)
    port = free_port()
    home.timeout = 600.0
    async with Proxy(("127.0.0.1", port), tls=tls) as proxy:
        url = f"https://localhost:{proxy.address[1]}"
        home.configure({"control": {"port": port, "external_url": url}})
        async with wandb_user(home) as user:
            authority = str(certificate.authority)
            trust = {"SSL_CERT_FILE": authority, "REQUESTS_CA_BUNDLE": authority}
            done = await user.wandb("verify", "--host", url, WANDB_BASE_URL=url, **trust)
            said = done.out + done.err
            assert done.code == 0, said
            assert [check for check in CHECKS if f"{check}." not in said] == []
            assert "\u274c" not in said
            found = (await user.ask(SWEEPS))["project"]
    assert found["totalSweeps"] == 1
    (sweep,) = [edge["node"] for edge in found["sweeps"]["edges"]]
    assert (sweep["method"], sweep["state"]) == ("grid", "FINISHED")
    assert "verify_sweep" in sweep["config"]
    assert (sweep["runCount"], sweep["runCountExpected"]) == (9, 9)
    # The smallest `x**3 + y` of the grid.
    assert sweep["bestLoss"] == 0.01**3 + 1
    runs = [edge["node"] for edge in sweep["runs"]["edges"]]
    assert {run["state"] for run in runs} == {"finished"}
    assert {run["sweepName"] for run in runs} == {sweep["name"]}
