"""The address and the API key are taken from the same source."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config.choose_server import (
    EmbeddedServer,
    RemoteServer,
    ServerFlags,
    choose_for_agent,
    choose_for_commands,
)
from agent.config.load import Loaded, load
from agent.config.local_files import (
    EmbeddedControlPlane,
    read_embedded,
    remove_embedded,
    save_key,
    saved_key,
    write_embedded,
)
from agent.config.wandb import HOSTED_URL
from agent.model.errors import AuthenticationError, ConfigError

Choose = Callable[..., RemoteServer | EmbeddedServer]
OURS = {"LAUNCH_SERVER": "https://ours", "LAUNCH_API_KEY": "our-key"}
WANDB = {"WANDB_BASE_URL": "https://theirs", "WANDB_API_KEY": "their-key"}


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., Loaded]:
    def loaded(text: str = "", **environ: str) -> Loaded:
        file = tmp_path / "config.yaml"
        file.write_text(text)
        return load({"HOME": str(tmp_path), **environ}, file=file)

    return loaded


@pytest.fixture
def agent(tmp_path: Path, loaded: Callable[..., Loaded]) -> Choose:
    def choose(text: str = "", flags: ServerFlags | None = None, **environ: str) -> object:
        home = {"HOME": str(tmp_path), **environ}
        return choose_for_agent(home, loaded(text, **environ), flags or ServerFlags())

    return choose


@pytest.fixture
def commands(tmp_path: Path, loaded: Callable[..., Loaded]) -> Choose:
    def choose(text: str = "", flags: ServerFlags | None = None, **environ: str) -> object:
        home = {"HOME": str(tmp_path), **environ}
        return choose_for_commands(home, loaded(text, **environ), flags or ServerFlags())

    return choose


def pair(choice: RemoteServer | EmbeddedServer) -> tuple[str, str]:
    assert isinstance(choice, RemoteServer)
    return choice.url, choice.api_key.get_secret_value()


def test_without_anything_the_agent_embeds_a_plane(agent: Choose) -> None:
    assert isinstance(agent(), EmbeddedServer)


def test_a_wandb_key_alone_changes_nothing(agent: Choose) -> None:
    assert isinstance(agent(WANDB_API_KEY="their-key"), EmbeddedServer)


def test_our_variables_go_before_wandbs_and_these_before_the_file(agent: Choose) -> None:
    file = "server: {url: https://file, api_key: file-key}\n"
    assert pair(agent(file, **OURS, **WANDB)) == ("https://ours", "our-key")
    assert pair(agent(file, **WANDB)) == ("https://theirs", "their-key")
    assert pair(agent(file)) == ("https://file", "file-key")


def test_keys_are_never_mixed(agent: Choose) -> None:
    """An address without its key is an error, however many other keys lie around."""
    with pytest.raises(AuthenticationError, match=r"no API key for the server https://ours") as e:
        agent(LAUNCH_SERVER="https://ours", WANDB_API_KEY="their-key")
    assert e.value.exit_code == 4
    with pytest.raises(AuthenticationError, match="https://theirs"):
        agent(WANDB_BASE_URL="https://theirs", LAUNCH_API_KEY="our-key")
    with pytest.raises(AuthenticationError, match="https://file"):
        agent("server: {url: https://file}\n", LAUNCH_API_KEY="our-key")
    with pytest.raises(AuthenticationError, match="https://flag"):
        agent(flags=ServerFlags("https://flag"), **OURS)


def test_a_flag_goes_first_and_takes_a_key_that_belongs_to_its_address(
    agent: Choose, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("flag-key\n")
    assert pair(agent(flags=ServerFlags("https://flag", file), **OURS))[1] == "flag-key"
    assert pair(agent(flags=ServerFlags("https://ours/"), **OURS))[1] == "our-key"


def test_embedded_is_forced_and_excludes_a_server(agent: Choose) -> None:
    assert isinstance(agent(flags=ServerFlags(embedded=True), **OURS), EmbeddedServer)
    with pytest.raises(ConfigError, match="exclude each other"):
        agent(flags=ServerFlags("https://x", embedded=True))


def test_a_file_in_wandbs_shape_means_wandbs_service(agent: Choose, tmp_path: Path) -> None:
    with pytest.raises(AuthenticationError, match="shape of W&B's"):
        agent("entity: e\n")
    assert pair(agent("entity: e\n", WANDB_API_KEY="their-key")) == (HOSTED_URL, "their-key")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password from-netrc\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert pair(agent("entity: e\n")) == (HOSTED_URL, "from-netrc")
    assert pair(agent("entity: e\n", **OURS)) == ("https://ours", "our-key")
    assert isinstance(agent("entity: e\n", ServerFlags(embedded=True)), EmbeddedServer)


def test_a_key_in_a_file_of_its_own(agent: Choose, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k\n")
    file = f"server: {{url: https://file, api_key_file: {tmp_path}/key}}\n"
    assert pair(agent(file)) == ("https://file", "k")
    (tmp_path / "key").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        agent(file)


def test_a_saved_key_is_used_for_its_address_only(agent: Choose, tmp_path: Path) -> None:
    from pydantic import SecretStr

    file = save_key({"HOME": str(tmp_path)}, "https://Ours/", SecretStr("saved"))
    assert file.stat().st_mode & 0o777 == 0o600
    assert pair(agent(LAUNCH_SERVER="https://ours")) == ("https://ours", "saved")
    with pytest.raises(AuthenticationError):
        agent(LAUNCH_SERVER="https://other")


def test_a_broken_file_of_saved_keys_is_named(tmp_path: Path) -> None:
    folder = tmp_path / ".config" / "launch-agent"
    folder.mkdir(parents=True)
    (folder / "credentials.json").write_text("{")
    with pytest.raises(ConfigError, match=r"credentials\.json"):
        saved_key({"HOME": str(tmp_path)}, "https://ours")


def test_an_address_needs_its_scheme(agent: Choose) -> None:
    with pytest.raises(ConfigError, match="not an http or https address"):
        agent(LAUNCH_SERVER="ours:8450", LAUNCH_API_KEY="k")


def test_a_bundle_belongs_to_the_server_it_was_given_for(agent: Choose) -> None:
    file = "server: {url: https://ours, api_key: k, ca_bundle: /ca.pem}\n"
    assert agent(file).ca_bundle == Path("/ca.pem")
    assert agent(file, **OURS).ca_bundle == Path("/ca.pem")
    assert agent(file, **WANDB).ca_bundle is None
    assert agent(LAUNCH_CA_BUNDLE="/x.pem", **OURS).ca_bundle == Path("/x.pem")


def test_commands_find_a_running_embedded_plane(commands: Choose, tmp_path: Path) -> None:
    state = tmp_path / ".local/state/launch-agent"
    with pytest.raises(ConfigError, match="No control plane is known"):
        commands()
    write_embedded(state, EmbeddedControlPlane("http://127.0.0.1:1", "k", os.getpid(), "ada"))
    assert (state / "embedded.json").stat().st_mode & 0o777 == 0o600
    assert pair(commands()) == ("http://127.0.0.1:1", "k")
    assert pair(commands("entity: e\n", WANDB_API_KEY="w")) == ("http://127.0.0.1:1", "k")
    assert pair(commands(flags=ServerFlags("http://127.0.0.1:1/"))) == ("http://127.0.0.1:1", "k")
    assert pair(commands(**OURS)) == ("https://ours", "our-key")
    remove_embedded(state, os.getpid() + 1)
    assert read_embedded(state) is not None
    remove_embedded(state, os.getpid())
    assert read_embedded(state) is None


def test_a_dead_plane_is_not_found(tmp_path: Path) -> None:
    write_embedded(tmp_path, EmbeddedControlPlane("http://127.0.0.1:1", "k", 2**22 + 1, "ada"))
    assert read_embedded(tmp_path) is None
    (tmp_path / "embedded.json").write_text("{}")
    assert read_embedded(tmp_path) is None


def test_keys_do_not_show_in_texts() -> None:
    assert "geheim" not in repr(EmbeddedControlPlane("http://x", "geheim", 1, "ada"))
