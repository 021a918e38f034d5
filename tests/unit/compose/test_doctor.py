"""`launch doctor`: each weakness is found, and a sound installation has none."""

import json
import os
import pwd
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agent.compose import doctor
from agent.compose.doctor import (
    Finding,
    builders_on_host_network,
    examine,
    version_findings,
)
from agent.config.agent import AgentConfig
from agent.config.choose_server import EmbeddedServer, RemoteServer

NOBODY = pwd.getpwuid(65534).pw_name
NEWEST = {"Engine": "29.9.0", "containerd": "2.3.6", "runc": "1.5.2"}


class FarEngine:
    """An engine that tells what it is told to."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "engine.sock"
        self.versions = dict(NEWEST)
        self.options = ["name=seccomp,profile=builtin", "name=rootless"]
        self.buildkit = "v0.33.1"
        program = folder / "bin" / "docker"
        program.parent.mkdir()
        self._program = program

    @property
    def environ(self) -> dict[str, str]:
        self._program.write_text(f"#!/bin/sh\necho 'BuildKit version: {self.buildkit}'\n")
        self._program.chmod(0o755)
        return {
            "DOCKER_HOST": f"unix://{self.socket}",
            "PATH": f"{self._program.parent}:{os.environ['PATH']}",
            "HOME": str(self._program.parents[1]),
        }

    async def answer(self, request: web.Request) -> web.Response:
        listed = [{"Name": name, "Version": text} for name, text in self.versions.items()]
        body = {"Components": listed, "SecurityOptions": self.options, "ServerVersion": "1"}
        return web.json_response(body)


@pytest.fixture
async def engine(short: Path) -> AsyncIterator[FarEngine]:
    far = FarEngine(short)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", far.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(far.socket)).start()
    yield far
    await runner.cleanup()


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("d")


@pytest.fixture(autouse=True)
def no_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses that this machine may or may not reach; see the test of its own."""
    monkeypatch.setattr(doctor, "_METADATA", ())


async def findings(
    engine: FarEngine,
    tmp_path: Path,
    *,
    url: str = "https://launch.example.org",
    config_file: Path | None = None,
    **settings: Any,
) -> list[Finding]:
    for name in ("state", "data"):
        (tmp_path / name).mkdir(mode=0o700, exist_ok=True)
    control = {"data_dir": str(tmp_path / "data"), **settings.pop("control", {})}
    config = AgentConfig.model_validate(
        {"state_dir": str(tmp_path / "state"), "control": control, **settings}
    )
    choice = RemoteServer(url, "key", None, "test") if url else EmbeddedServer("test")
    return await examine(config, choice, config_file, engine.environ)


def problems(found: list[Finding]) -> list[str]:
    assert all(each.remedy for each in found if each.level == "problem")
    return [f"{each.subject}: {each.message}" for each in found if each.level == "problem"]


async def test_a_sound_installation_has_no_problem(engine: FarEngine, tmp_path: Path) -> None:
    found = await findings(engine, tmp_path)
    assert problems(found) == []
    assert {each.subject for each in found if each.level == "ok"} >= {
        "Docker Engine", "runc", "containerd", "BuildKit", "files", "users of containers",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("program", "text", "levels"),
    [
        ("runc", "1.1.11", ["problem", "problem"]),
        ("runc", "1.1.12", ["problem"]),
        ("runc", "1.1.5+ds1", ["problem", "problem"]),
        ("runc", "1.2.7", ["problem"]),
        ("runc", "1.2.8", ["ok"]),
        ("runc", "1.3.2", ["problem"]),
        ("runc", "1.4.0", ["ok"]),
        ("runc", "1.5.0-rc.1", ["ok"]),
        ("BuildKit", "v0.12.4", ["problem", "problem", "problem"]),
        ("BuildKit", "v0.28.1", ["problem"]),
        ("BuildKit", "v0.31.2", ["ok"]),
        ("BuildKit", "v0.0.0+unknown", ["note"]),
        ("BuildKit", "unknown", ["note"]),
        ("Docker Engine", "25.0.5", ["problem"]),
        ("Docker Engine", "25.0.4", ["problem", "problem"]),
        ("Docker Engine", "29.5.1", ["ok"]),
        ("docker-init", "0.19.0", []),
    ],
)
def test_a_version_is_compared_with_its_release_line(
    program: str, text: str, levels: list[str]
) -> None:
    assert [each.level for each in version_findings(program, text)] == levels


async def test_an_old_engine_and_buildkit_are_problems(engine: FarEngine, tmp_path: Path) -> None:
    engine.versions["runc"] = "1.1.5+ds1-1+deb12u1"
    engine.buildkit = "v0.11.6"
    engine.options = []
    found = await findings(engine, tmp_path)
    shown = "\n".join(problems(found))
    assert "CVE-2024-21626" in shown
    assert "CVE-2024-23651" in shown
    assert "without a seccomp profile" in shown
    assert any(each.subject == "users of containers" and each.level == "note" for each in found)


async def test_an_engine_that_does_not_answer_is_a_note(engine: FarEngine, tmp_path: Path) -> None:
    host = {"local-container": {"host": f"unix://{tmp_path}/none"}}
    found = await findings(engine, tmp_path, runners=host)
    assert any(e.level == "note" and e.subject == "container engine" for e in found)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
async def test_a_key_that_others_can_read_is_a_problem(
    engine: FarEngine, tmp_path: Path, mode: int
) -> None:
    key = tmp_path / "key"
    key.write_text("x")
    places: list[dict[str, Any]] = [
        {"server": {"url": "https://launch.example.org", "api_key_file": str(key)}},
        {"secrets": {"a": {"file": str(key), "as_env": "A", "queues": ["*"]}}},
        {"builder": {"secrets": {"a": {"file": str(key), "queues": ["*"]}}}},
        {"sources": {"git": {"ssh_key": str(key)}}},
    ]
    for settings in places:
        key.chmod(0o600)
        assert problems(await findings(engine, tmp_path, **settings)) == []
        key.chmod(mode)
        (shown,) = problems(await findings(engine, tmp_path, **settings))
        assert str(key) in shown


async def test_a_configuration_file_with_a_secret_is_for_its_owner_only(
    engine: FarEngine, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    secret = {"index_url": "https://ada:pw@packages.example.org/simple"}
    for text, bad in ((str(secret), True), ("builder: {}", False)):
        file.write_text(text)
        file.chmod(0o644)
        found = await findings(engine, tmp_path, builder=secret, config_file=file)
        assert any(str(file) in each for each in problems(found)) is bad


async def test_state_and_data_that_others_can_list_are_problems(
    engine: FarEngine, tmp_path: Path
) -> None:
    await findings(engine, tmp_path)
    (tmp_path / "state" / "journal.db").write_text("")
    (tmp_path / "state").chmod(0o711)
    (tmp_path / "state" / "journal.db").chmod(0o644)
    (tmp_path / "data").chmod(0o755)
    shown = problems(await findings(engine, tmp_path))
    assert len(shown) == 2
    assert any("journal.db" in each for each in shown)
    assert any(f"{tmp_path / 'data'} is a folder" in each for each in shown)
    (tmp_path / "state" / "journal.db").chmod(0o600)
    (tmp_path / "data").chmod(0o700)
    assert problems(await findings(engine, tmp_path)) == []


PROCESSES = {"local-container": {"enabled": False}}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"runners": {"local-container": {"host_network": True}}}, "host's network"),
        ({"runners": {"local-container": {"allow": ["--cap_add"]}}}, "`cap-add`"),
        ({"runners": {"local-container": {"allow": ["privileged"]}}}, "`privileged`"),
        ({"runners": {"local-container": {"allow": ["volume", "pid"]}}}, "`volume`"),
        ({"runners": {"local-container": {"allow": ["v"]}}}, "`volume`"),
        ({"runners": {"local-container": {"allow": ["net"]}}}, "`network`"),
        ({"runners": {"local-container": {"allow": [" Privileged "]}}}, "`privileged`"),
        ({"mounts": {"all": {"source": "/", "target": "/host", "queues": ["*"]}}}, "'all'"),
        (
            {"mounts": {"etc": {"source": "/etc", "target": "/etc", "queues": ["*"]}}},
            "can read /etc",
        ),
        (
            {"mounts": {"etc": {"source": "/usr/../etc", "target": "/x", "queues": ["*"]}}},
            "of the host",
        ),
        ({"builder": {"network": "host"}}, "Build steps"),
        ({"builder": {"buildkit": "tcp://build.example.org:1234"}}, "without TLS"),
        ({"url": "http://launch.example.org"}, "without encryption"),
        ({"sources": {"private_hosts": ["*"]}}, "every submitter"),
        ({"runners": PROCESSES}, "read this agent's key"),
        ({"runners": PROCESSES | {"local-process": {"user": "root"}}}, "is root"),
        ({"runners": PROCESSES | {"local-process": {"user": "no-such"}}}, "no user"),
        (
            {"runners": PROCESSES | {"local-process": {"user": NOBODY, "environment": ["A_KEY"]}}},
            "variable A_KEY",
        ),
    ],
)
async def test_what_opens_the_host_is_a_problem(
    engine: FarEngine, tmp_path: Path, settings: dict[str, Any], words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    environ = engine.environ | {"A_KEY": "x"}
    monkeypatch.setattr(FarEngine, "environ", environ)
    assert words in "\n".join(problems(await findings(engine, tmp_path, **settings)))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["buildkitd", "--oci-worker-net=host"], 1),
        (["/usr/bin/buildkitd", "--debug", "--containerd-worker-net", "host"], 1),
        (["rootlesskit", "buildkitd", "--oci-worker-net=host"], 1),
        (["buildkitd", "--oci-worker-net=bridge"], 0),
        (["buildkitd"], 0),
        (["grep", "--oci-worker-net=host"], 0),
    ],
)
def test_a_buildkitd_on_the_hosts_network_is_found(
    tmp_path: Path, words: list[str], found: int
) -> None:
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "cmdline").write_bytes(b"".join(f"{word}\0".encode() for word in words))
    (tmp_path / "78").mkdir()
    (tmp_path / "version").write_text("no process")
    listed = list(builders_on_host_network(tmp_path))
    assert [each.level for each in listed] == ["problem"] * found
    assert all("process 77" in each.message for each in listed)


async def test_a_job_user_without_rights_is_no_problem(engine: FarEngine, tmp_path: Path) -> None:
    for user, levels in ((NOBODY, ["note"]), ("200000-200063", ["ok"])):
        runners = PROCESSES | {"local-process": {"user": user}}
        found = await findings(engine, tmp_path, runners=runners)
        assert problems(found) == []
        assert [each.level for each in found if each.subject == "processes"] == levels


async def test_a_socket_or_the_agents_own_folder_is_no_mount(
    engine: FarEngine, tmp_path: Path
) -> None:
    link = tmp_path / "innocent"
    link.symlink_to(engine.socket)
    for source in (engine.socket, link, tmp_path / "state", tmp_path):
        mounts = {"m": {"source": str(source), "target": "/m", "queues": ["*"]}}
        (shown,) = problems(await findings(engine, tmp_path, mounts=mounts))
        assert shown.startswith("mount 'm'")
    datasets = tmp_path / "datasets"
    datasets.mkdir()
    mounts = {"m": {"source": str(datasets), "target": "/m", "queues": ["*"]}}
    assert problems(await findings(engine, tmp_path, mounts=mounts)) == []


async def test_a_metadata_service_that_answers_is_a_problem(
    engine: FarEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(doctor, "_METADATA", ("127.0.0.1",))
        monkeypatch.setattr(doctor, "_METADATA_PORT", server.getsockname()[1])
        (shown,) = problems(await findings(engine, tmp_path))
        assert "127.0.0.1 accepts connections" in shown


async def test_an_embedded_plane_that_listens_openly_is_a_note(
    engine: FarEngine, tmp_path: Path
) -> None:
    control = {"listen": "0.0.0.0", "personal_agents_in_teams": True}
    found = await findings(engine, tmp_path, url="", control=control)
    notes = [each.message for each in found if each.level == "note"]
    assert any("0.0.0.0" in note for note in notes)
    assert any("own key" in note for note in notes)
    loopback = {"listen": "127.0.0.2", "also_listen": ["localhost", "::1"]}
    found = await findings(engine, tmp_path, url="", control=loopback)
    assert not [each for each in found if each.subject == "control plane"]


def test_the_command_prints_json_and_its_exit_code_tells(
    engine: FarEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command runs its own loop; here no engine is asked."""
    from click.testing import CliRunner

    from agent.cli.doctor import doctor as command

    for name, value in {"HOME": str(tmp_path), "A_KEY": "x"}.items():
        monkeypatch.setenv(name, value)
    config = tmp_path / "config.yaml"
    base = "runners: {local-container: {enabled: false}, local-process: {user: %s}}\n"
    for user, code in ((NOBODY, 0), ("root", 1)):
        config.write_text(base % user)
        done = CliRunner().invoke(
            command, ["--config", str(config), "--json"], standalone_mode=False
        )
        shown = json.loads(done.output)
        assert any(each["level"] == "problem" for each in shown["findings"]) is bool(code)
        assert done.return_value == code
