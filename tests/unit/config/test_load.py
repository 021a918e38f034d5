"""What is accepted, what is refused and how, and where each value came from."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config.agent import AgentConfig
from agent.config.execution import PendingTimeouts
from agent.config.load import ConfigValue, Loaded, load
from agent.config.schema import key_paths
from agent.model.errors import ConfigError

Load = Callable[..., Loaded]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


@pytest.fixture
def read(tmp_path: Path, file: Path) -> Load:
    def read(text: str, environ: dict[str, str] | None = None, *flags: ConfigValue) -> Loaded:
        file.write_text(text)
        return load({"HOME": str(tmp_path), **(environ or {})}, file=file, flags=flags)

    return read


def refusal(read: Load, text: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, environ)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_file_then_environment_then_flags(read: Load, file: Path) -> None:
    flag = ConfigValue(("name",), "from-flag", "--name")
    loaded = read(
        "max_jobs: 2\nname: a\nlog: {level: debug}\n",
        {"LAUNCH_MAX_JOBS": "3", "LAUNCH_NAME": "b"},
        flag,
    )
    assert (loaded.config.max_jobs, loaded.config.name) == (3, "from-flag")
    assert loaded.origin(("max_jobs",)) == "the environment variable LAUNCH_MAX_JOBS"
    assert loaded.origin(("name",)) == "--name"
    assert loaded.origin(("log", "level")) == f"{file}:3"
    assert loaded.origin(("log", "format")) == "default"


def test_wandbs_variables_count_and_ours_win(read: Load) -> None:
    assert read("", {"WANDB_LAUNCH_MAX_JOBS": "7"}).config.max_jobs == 7
    both = {"WANDB_LAUNCH_MAX_JOBS": "7", "LAUNCH_MAX_JOBS": "8", "WANDB_ENTITY": "team"}
    config = read("", both).config
    assert (config.max_jobs, config.entity) == (8, "team")


def test_every_key_has_a_variable(read: Load) -> None:
    config = read(
        "",
        {
            "LAUNCH_QUEUES": "a, b",
            "LAUNCH_RUNNERS__LOCAL_CONTAINER__HOST": "unix:///x",
            "LAUNCH_RUNNERS__LOCAL_CONTAINER__ENABLED": "false",
            "LAUNCH_CONTROL__LEASE": "30s",
            "LAUNCH_PRUNE__IMAGES__MAX_SIZE": "1GiB",
            "LAUNCH_RESOURCES__GPUS": "0,1",
            "LAUNCH_RESOURCES__CPUS": "2.5",
        },
    ).config
    assert config.queues == ("a", "b")
    assert config.runners.local_container.host == "unix:///x"
    assert config.runners.local_container.enabled is False
    assert config.control.lease == 30
    assert config.prune.images.max_size == 2**30
    assert config.resources.gpus == ("0", "1")
    assert config.resources.cpus == 2.5


def test_the_configuration_cannot_be_changed(read: Load) -> None:
    with pytest.raises(ValueError, match="frozen"):
        read("").config.max_jobs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\nqueus: [a]", ":2: unknown key `queus`. Did you mean `queues`?"),
        ("queue: a", ":1: unknown key `queue`. Did you mean `queues`?"),
        (
            "runners:\n  local-containr: {}",
            ":2: unknown key `local-containr` in `runners`. Did you mean `local-container`?",
        ),
        ("log:\n  colour: x", ":2: unknown key `colour` in `log`. Known: `file`, `format`"),
        ("max_jobs: many", ":1: `max_jobs`: seen `many`; expected a whole number."),
        ("max_jobs: true", ":1: `max_jobs`: seen `true`; expected a whole number."),
        ("control: {personal_agents_in_teams: often}", "expected `true` or `false`."),
        ("secure_mode: true", ":1: `secure_mode: true` is not supported"),
        ("queues: default", ":1: `queues`: seen `default`; expected a list of strings."),
        ("queues: [a, [b]]", ":1: `queues[1]`: seen `['b']`; expected a string."),
        ("max_jobs: -2", "greater than or equal to -1"),
        (
            "control:\n  lease: 45",
            ":2: `control.lease`: seen `45` (the number needs a unit: 30s, 10m, 2h)",
        ),
        ("control: {lease: 3 parsecs}", "seen `3 parsecs` ('3 parsecs' is not a duration)"),
        ("min_free_disk: 12", "(the number needs a unit: 512MiB, 20GiB); expected a size"),
        ("min_free_disk: 5 stones", "seen `5 stones` ('5 stones' is not a size)"),
        ("builder: {type: dokcer}", "seen `dokcer`; expected one of `auto`, `docker`"),
        ("resources: {gpus: 2}", "`resources.gpus`: seen `2`; expected a list of strings or"),
        ("health: {port: 70000}", "less than or equal to 65535"),
        ("server: {url: launch.example.org}", "expected an address such as https://"),
        ("server: {api_key: x}", ":1: `server.url` is missing; expected an address"),
        (
            "secrets: {a: {env: X, queues: ['*']}}",
            "`secrets.a`: give exactly one of `as_env` and `as_file`.",
        ),
        (
            "secrets: {a: {as_env: X, queues: ['*']}}",
            "give exactly one of `value`, `env` and `file`.",
        ),
        (
            "secrets: {a: {env: X, as_env: X}}",
            "`secrets.a.queues` is missing; expected a list, each",
        ),
        ("secrets: {a: {env: X, as_env: X, queues: []}}", "`secrets.a.queues`: seen `[]`"),
        (
            "secrets: {a: {env: X, as_env: X, queues: [gpu]}}",
            "`secrets.a.queues[0]`: seen `gpu`; expected `ENTITY/QUEUE`, or `*` for all queues",
        ),
        (
            "mounts: {d: {source: /a, target: /b}}",
            "`mounts.d.queues` is missing; expected a list, each",
        ),
        ("builder: {secrets: {s: {env: X, queues: [a/b/c]}}}", "expected `ENTITY/QUEUE`, or `*`"),
        (
            "mounts: {d: {source: /a, target: b, queues: ['*']}}",
            "`mounts.d.target`: seen `b`; expected an abs",
        ),
        ("builder: docker", ":1: `builder`: seen `docker`; expected a mapping"),
        ("- a\n- b", ":1: expected `key: value` lines."),
        ("a: [", "not valid YAML"),
        ("max_jobs: 1\nmax_jobs: 2", ":2: the key `max_jobs` occurs twice."),
        ("1: a", ":1: the key 1 is not a string."),
        ("max_jobs: !!python/object:os.system x", ":1: `max_jobs`: values of the tag"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    read: Load, file: Path, text: str, says: str
) -> None:
    told = refusal(read, text)
    assert says in told
    assert str(file) in told


def test_all_mistakes_are_told_at_once(read: Load) -> None:
    told = refusal(read, "max_jobs: x\nqueus: []\ncontrol: {port: y}")
    assert told.count("config.yaml:") == 3


def test_a_secret_of_the_wrong_form_is_not_shown(read: Load) -> None:
    told = refusal(
        read, "sources: {git: {credentials: [{url: x, username: y, password: hunter22}]}}"
    )
    assert "hunter22" not in told
    assert "sources.git.credentials[0].password" in told


def test_a_variable_of_the_wrong_form_is_named(read: Load) -> None:
    told = refusal(read, "", {"LAUNCH_MAX_JOBS": "x"})
    assert told.startswith("the environment variable LAUNCH_MAX_JOBS: `max_jobs`: seen `x`")


def test_a_mistyped_variable_is_refused_and_a_foreign_one_ignored(read: Load) -> None:
    told = refusal(read, "", {"LAUNCH_MAX_JOB": "3"})
    assert "LAUNCH_MAX_JOB is unknown. Did you mean LAUNCH_MAX_JOBS?" in told
    read("", {"LAUNCH_ITEM_ID": "x", "LAUNCH_QUEUE": "q", "LAUNCH_PAD_39A": "free"})


@pytest.mark.parametrize(("written", "value"), [("true", True), ("yes", True), ("off", False)])
def test_switches_may_be_written_as_in_yaml_1_1(read: Load, written: str, value: bool) -> None:
    config = read(f"control: {{personal_agents_in_teams: {written}}}").config
    assert config.control.personal_agents_in_teams is value


def test_every_key_is_read_somewhere() -> None:
    """A key that does nothing must not be accepted."""
    code = "\n".join(
        file.read_text()
        for file in (Path(__file__).parents[3] / "agent").rglob("*.py")
        if file.parent.name != "config"
    )
    names = {path[-1].replace("-", "_") for path in key_paths(AgentConfig)}
    #: Read by the models' own methods.
    names -= {"api_key_file", "value", "env", "file", "api_key", *PendingTimeouts.model_fields}
    assert {name for name in names if f".{name}" not in code} == set()


def test_an_empty_section_is_as_if_it_were_not_there(read: Load) -> None:
    assert read("control:\nprune:\n").config == read("").config


def test_yaml_anchors_and_merges_work(read: Load) -> None:
    config = read(
        "prune:\n  images: &rule {max_age: 2d, max_size: 1GiB}\n"
        "  mirrors:\n    <<: *rule\n    max_age: 3d\n"
    ).config
    assert config.prune.mirrors.max_size == 2**30
    assert config.prune.mirrors.max_age == 3 * 86400


def test_an_alias_that_contains_itself_is_refused(read: Load) -> None:
    assert "alias that contains itself" in refusal(read, "queues: &a [*a]")


def test_a_named_file_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    with pytest.raises(ConfigError, match="named by --config, does not exist"):
        load({}, file=missing)
    with pytest.raises(ConfigError, match="LAUNCH_CONFIG, does not exist"):
        load({"LAUNCH_CONFIG": str(missing)})


def test_a_file_that_is_no_text(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="it is no text in UTF-8 or UTF-16"):
        load({}, file=file)


def test_our_own_place_goes_before_wandbs(tmp_path: Path) -> None:
    ours = tmp_path / ".config" / "launch-agent" / "config.yaml"
    theirs = tmp_path / ".config" / "wandb" / "launch-config.yaml"
    for path, name in ((theirs, "theirs"), (ours, "ours")):
        path.parent.mkdir(parents=True)
        path.write_text(f"name: {name}\n" if name == "ours" else "entity: e\n")
    loaded = load({"HOME": str(tmp_path)})
    assert (loaded.config.name, loaded.wandb_shape) == ("ours", False)
    ours.unlink()
    loaded = load({"HOME": str(tmp_path)})
    assert (loaded.file, loaded.wandb_shape) == (theirs, True)


def test_wandbs_file_is_accepted_as_it_is(read: Load) -> None:
    loaded = read("""
entity: my-team
max_jobs: -1
queues: [a, b]
stopped_run_timeout: 120
environment: {type: aws, region: us-east-1}
registry: {type: ecr, uri: "123456789012.dkr.ecr.us-east-1.amazonaws.com/x"}
builder:
  type: kaniko
  destination: 123456789012.dkr.ecr.us-east-1.amazonaws.com/x
  build-context-store: s3://bucket/prefix
  build-job-name: build
  kaniko-config: {spec: {template: {}}}
max_schedulers: 2
secure_mode: false
""")
    assert loaded.wandb_shape
    assert loaded.config.stopped_run_timeout == 120
    assert [
        warning.partition(":")[2].split(" has no effect: ")[0] for warning in loaded.warnings
    ] == [
        "11: `builder.build-context-store`",
        "12: `builder.build-job-name`",
        "13: `builder.kaniko-config`",
        "14: `max_schedulers`",
        "15: `secure_mode`",
    ]
    assert all("kaniko builder" in each for each in loaded.warnings[:3])


def test_wandbs_defaults_hold_for_wandbs_file(read: Load) -> None:
    assert read("entity: my-team\n").config.max_jobs == 1
    assert read("entity: my-team\nname: ours\n").config.max_jobs == 4


def test_folders_follow_the_environment(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "XDG_STATE_HOME": "/s", "XDG_DATA_HOME": "relative"}
    config = load(environ).config
    assert config.state_dir == Path("/s/launch-agent")
    assert config.control.data_dir == tmp_path / ".local/share/launch-agent"
    config = load({**environ, "LAUNCH_STATE_DIR": "/a", "LAUNCH_DATA_DIR": "/b"}).config
    assert (config.state_dir, config.control.data_dir) == (Path("/a"), Path("/b"))
