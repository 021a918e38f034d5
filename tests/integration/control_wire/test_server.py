"""Starting, listening, stopping."""

import socket

import aiohttp
import pytest
from aiohttp import web

from agent.config.control import ControlConfig
from agent.control import app as app_module
from agent.control.files import storage
from agent.control.request_data import CONFIG, PLANE, STOPPING
from agent.control.server import ControlPlane
from agent.model.errors import ConfigError, ConflictError
from tests.integration.control_wire.wire import open_wire


@pytest.fixture
def taken():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


async def test_a_port_in_use_is_named_with_what_to_do(tmp_path, taken):
    plane = ControlPlane(ControlConfig(port=taken, data_dir=tmp_path))
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1 port {taken}: it is in use") as caught:
        await plane.start()
    assert "control.port" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("address", "words"),
    [("192.0.2.1", "not an address here"), ("not an address", "Cannot listen on not an address")],
)
async def test_an_address_that_is_not_ours_is_named(tmp_path, address, words):
    plane = ControlPlane(ControlConfig(port=0, listen=address, data_dir=tmp_path))
    with pytest.raises(ConfigError, match=words):
        await plane.start()


async def test_a_failed_start_releases_the_database(tmp_path, taken):
    with pytest.raises(ConfigError):
        await ControlPlane(ControlConfig(port=taken, data_dir=tmp_path)).start()
    async with open_wire(tmp_path):
        pass


async def test_a_second_server_on_one_folder_is_refused_and_touches_nothing(wire):
    folder = wire.server.app[CONFIG].data_dir
    staged = folder / "contents" / "ann" / "being-written#1"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(b"half")
    with pytest.raises(ConflictError):
        await ControlPlane(ControlConfig(port=0, data_dir=folder)).start()
    assert staged.exists()
    assert (await wire.ann.data("{ viewer { entity } }"))["viewer"]["entity"] == "ann"


async def test_a_start_that_fails_half_way_closes_what_it_had_opened(tmp_path, monkeypatch):
    async def fail(_folder):
        raise OSError("no such disk")

    monkeypatch.setattr(storage, "open_folder", fail)
    with pytest.raises(OSError, match="no such disk"):
        await ControlPlane(ControlConfig(port=0, data_dir=tmp_path)).start()
    monkeypatch.undo()
    async with open_wire(tmp_path):
        pass


async def test_further_addresses_share_the_port_and_are_our_own_names(wire):
    url = await wire.server.listen_for_jobs("127.0.0.2")
    assert url == f"http://127.0.0.2:{wire.server.port}"
    assert await wire.server.listen_for_jobs("127.0.0.2") == url
    async with wire.http.get(f"{url}/healthz") as answer:
        assert answer.status == 200
    async with wire.http.get(f"{url}/healthz", headers={"Host": "127.0.0.3"}) as answer:
        assert answer.status == 421


async def test_configured_addresses_are_listened_on(tmp_path):
    async with (
        open_wire(tmp_path, also_listen=("127.0.0.3",)) as wire,
        wire.http.get(f"http://127.0.0.3:{wire.server.port}/healthz") as answer,
    ):
        assert answer.status == 200


async def test_a_wildcard_is_reached_over_loopback(tmp_path):
    async with open_wire(tmp_path, listen="0.0.0.0") as wire:
        assert wire.server.url == f"http://127.0.0.1:{wire.server.port}"


async def test_an_external_url_is_what_links_are_made_for(tmp_path):
    async with open_wire(tmp_path, external_url="https://launch.example.org/") as wire:
        link = await wire.server.sign_in_url(wire.admin)
        assert link.startswith("https://launch.example.org/login/link?token=")
        async with wire.ann.request("POST", "/launch/sign-in-links") as answer:
            assert (await answer.json())["url"].startswith("https://launch.example.org/login/link")


async def test_jobs_get_links_for_the_address_that_they_reach(tmp_path):
    settings = {"external_url": "https://launch.example.org", "also_listen": ("127.0.0.3",)}
    async with open_wire(tmp_path, **settings) as wire:
        url = await wire.server.listen_for_jobs("127.0.0.2")
        for base, expected in {
            url: url,
            f"http://127.0.0.3:{wire.server.port}": settings["external_url"],
            wire.server.url: settings["external_url"],
        }.items():
            link = f"{base}/launch/sign-in-links"
            async with wire.http.post(link, headers=wire.ann.headers) as answer:
                assert (await answer.json())["url"].startswith(f"{expected}/login/link"), base


async def test_a_stopped_server_accepts_no_more(tmp_path):
    async with open_wire(tmp_path) as wire:
        url = wire.server.url
        await wire.server.stop()
        with pytest.raises(aiohttp.ClientConnectionError):
            await wire.http.get(f"{url}/healthz")


async def test_keys_and_items_survive_a_restart(tmp_path):
    async with open_wire(tmp_path) as wire:
        key, plane_id = wire.ann.key, wire.server.services.control_plane_id
    async with open_wire(tmp_path) as wire:
        assert wire.server.services.control_plane_id == plane_id
        principal = await wire.server.services.accounts.authenticate(wire.ann.key)
        assert principal.name == "ann"
        assert key


async def test_a_failure_of_ours_is_masked(wire):
    class Broken:
        """A store that went away under the server."""

        def __getattr__(self, name):
            raise RuntimeError("postgresql://user:hunter2@db")

    wire.server.app._state[PLANE] = Broken()
    async with wire.nobody.request("GET", "/readyz") as answer:
        assert answer.status == 503
        assert "hunter2" not in await answer.text()
    async with wire.ann.request("POST", "/graphql", json={"query": "{ viewer { id } }"}) as answer:
        text = await answer.text()
        assert answer.status == 500
        assert "internal error, reference" in text
        assert "hunter2" not in text


async def test_a_stopping_server_is_not_ready(wire):
    wire.server.app[STOPPING].set()
    assert await wire.nobody.status("GET", "/readyz") == 503


def test_a_route_without_a_policy_keeps_the_app_from_being_made(tmp_path, monkeypatch):
    async def forgotten(_request: web.Request) -> web.Response:
        return web.Response()

    def more(app: web.Application) -> None:
        app.router.add_get("/forgotten", forgotten)

    monkeypatch.setattr(app_module, "add_web_routes", more)
    with pytest.raises(RuntimeError, match="/forgotten"):
        app_module.create_app(ControlConfig(data_dir=tmp_path))


async def test_a_body_that_is_no_request_is_refused(wire):
    for data in (b"", b"{", b"[]", b'{"query": 1}', b"\xff"):
        headers = {"Content-Type": "application/json"}
        assert await wire.ann.status("POST", "/graphql", data=data, headers=headers) == 400


async def test_a_body_beyond_the_limit_is_refused(tmp_path):
    async with open_wire(tmp_path, max_body=2000) as wire:
        body = {"query": "{ viewer { id } }", "variables": {"x": "y" * 3000}}
        assert await wire.ann.status("POST", "/graphql", json=body) == 413
