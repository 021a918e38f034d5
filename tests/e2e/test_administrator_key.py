"""`launch server` gives its first administrator's key in a file that only its user may read."""

import stat

import aiohttp

from tests.e2e.harness.home import Home
from tests.infrastructure.process import free_port


async def test_the_key_is_in_a_private_file_whose_place_is_printed(home: Home) -> None:
    """At the first start, and at each later one, whatever mode the file had meanwhile."""
    port = free_port()
    home.configure({"control": {"port": port}})
    file = home.root / "data" / "administrator.key"
    for name, mode in (("first", None), ("later", 0o644)):
        if mode is not None:
            file.chmod(mode)
        daemon = await home.start("launch", "server")
        printed = daemon.output()
        key = file.read_text().strip()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert str(file) in printed
        assert key not in printed
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers) as session,
            session.post("/api/admin/users", json={"name": name}) as answer,
        ):
            assert answer.status == 201, await answer.text()
        assert await daemon.terminate() == 0
