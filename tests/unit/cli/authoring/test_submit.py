"""`launch submit`: its flags, which of them go together, and what is queued in the end."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.authoring.conftest import Cli
from tests.unit.jobs.plane import Plane

IMAGE = ("-d", "org/app:1")


def spec(far: Plane) -> dict[str, Any]:
    found: dict[str, Any] = far.submitted[-1]["runSpec"]
    return found


REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("--async", "-q", "q", "-P", "high", *IMAGE), "--async and --queue exclude each other"),
    (("-P", "high", "-c", "{not json", *IMAGE), "--priority needs --queue"),
    (("-q", "q", "-R", "nothing.json", "-b", *IMAGE), "--resource-args: there is no file"),
    (("-q", "q", "-c", "{not json", *IMAGE), "--config"),
    (("-b", "-u", "."), "--build needs --queue"),
    (("-u", ".", "-j", "e/p/n:v0"), "--uri needs --entry-point"),
    (("-u", ".", "-j", "e/p/n:v0", "-E", "python main.py"), "--uri and --job exclude each other"),
    (("-v", "a=1", *IMAGE), "--set-var needs --queue"),
    (("-q", "q", "-v", "novalue", *IMAGE), "--set-var: 'novalue' is not of the form KEY=VALUE"),
    (("-q", "q", "-j", "e/p/n:v0", *IMAGE), "exclude each other"),
    (("-q", "q", *IMAGE, "-B", "org/base:1"), "--base-image and --docker-image exclude"),
    (("-q", "q", "-j", "e/p/n:v0", "-B", "b:1"), "--base-image belongs to --uri"),
    (("-q",), "The job has no source"),
    (("-q", "q", "-c", '{"overrides": {"args": "text"}}', *IMAGE), "`overrides.args`"),
    (("-q", "q", "-c", '{"docker": 3}', *IMAGE), "Launch spec: `docker`"),
    (("-q", "q", "-c", '{"build": {"python": 3.10}}', *IMAGE), "Put the value in quotes"),
    (("-q", "q", "-c", '{"overrides": "x"}', "-u", "."), "Launch spec: `overrides`"),
    (("-q", "q", "-P", "urgent", *IMAGE), "'urgent' is not a priority"),
    (("-q", "q", "-j", "team/demo/jobs/n"), "Did you mean `team/demo/n:latest`?"),
    (("-q", "q", "--diff", *IMAGE), "--source and --diff belong to --uri"),
    (("-q", "-u", ".", "-E", "x", "-g", "main"), "--git-version belongs to a git repository"),
    (("-q", "-u", ".", "-E", "x", "--lfs"), "--lfs belongs to a git repository"),
    (("-q", "-u", ".", "-E", "x", "--submodules"), "--submodules belongs to a git repository"),
    (("-q", "q", "-j", "e/p/n:v0", "--runtime", "3.11"), "--runtime belongs to --uri"),
    (("-q", "q", "-j", "e/p/n:v0", "--lfs"), "--lfs belongs to --uri"),
    (("-q", "q", "--no-submodules", *IMAGE), "--submodules belongs to --uri"),
    (("-q", "-u", "ftp://host/r.git", "-E", "x"), "`ftp` is not a protocol"),
    (("-q", "-u", ".", "-E", "python main.py", "-J", "a b"), "'a b' cannot be a job's name"),
    (("-q", "-d", "Org/App:1"), "Did you mean `org/app:1`?"),
    (("-q", "-d", "org/app:"), "the tag '' is not valid"),
    (("-q", "-c", '{"docker": {"docker_image": "org/App"}}'), "no upper-case letters"),
    (("-q", "-u", ".", "-E", "python x.py", "-B", "Org/Base"), "Did you mean `org/base`?"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED)
async def test_flags_that_do_not_go_together_are_refused_in_wandbs_order(
    cli: Cli, far: Plane, flags: tuple[str, ...], message: str
) -> None:
    far.queues = [{"name": "q", "templateVariables": []}]
    said = await cli("submit", *flags)
    assert said.code == 2, said.err
    assert message in said.err
    assert far.submitted == far.versions == []


async def test_template_variables_are_compared_with_the_queues(cli: Cli, far: Plane) -> None:
    schema = json.dumps({"type": "integer"})
    far.queues = [{"name": "q", "templateVariables": [{"name": "gpus", "schema": schema}]}]
    said = await cli("submit", "-q", "q", "-v", "gpu=2", *IMAGE)
    assert (said.code, "`gpu`" in said.err, "`gpus`" in said.err) == (1, True, True)
    said = await cli("submit", "-q", "q", "-v", "gpus=two", *IMAGE)
    assert (said.code, "'two' is not an integer" in said.err) == (2, True)
    said = await cli("submit", "-q", "q", "-v", "gpus=2", "-P", "high", *IMAGE)
    assert said.code == 0, said.err
    assert far.submitted[-1]["templateVariables"] == {"gpus": 2}
    assert far.submitted[-1]["priority"] == 1


@pytest.mark.parametrize(
    ("given", "remark"),
    [
        ({"timout": "3s"}, "`timout` is not known and has no effect. Is `timeout` meant?"),
        ({"run_config": {"lr": 3}}, "Is `overrides.run_config` meant?"),
        ({"args": ["--lr", "3"]}, "Is `overrides.args` meant?"),
        ({"lr": 3}, "`lr` is not known and has no effect. Parameters of the run belong into"),
        ({"overrides": {"lr": 3}}, "`overrides.lr` is not known and has no effect. Parameters"),
        ({"overrides": {"runconfig": {}}}, "Is `overrides.run_config` meant?"),
    ],
)
async def test_a_key_of_a_spec_that_nothing_reads_is_remarked(
    cli: Cli, far: Plane, given: dict[str, Any], remark: str
) -> None:
    said = await cli("submit", "-q", "-c", json.dumps(given), *IMAGE)
    assert said.code == 0, said.err
    assert remark in said.err
    assert given.items() <= {**spec(far), "overrides": spec(far).get("overrides")}.items()


async def test_keys_of_wandbs_own_specs_are_not_remarked(cli: Cli, far: Plane) -> None:
    theirs = {"git": {}, "docker": {}, "overrides": {"args": []}, "queue_entity": "e", "_x": 1}
    said = await cli("submit", "-q", "-c", json.dumps(theirs), *IMAGE)
    assert (said.code, "is not known" in said.err) == (0, False)


async def test_a_parameter_that_is_given_as_a_variable_is_told_where_it_belongs(
    cli: Cli, far: Plane
) -> None:
    far.queues = [{"name": "q", "templateVariables": []}]
    said = await cli("submit", "-q", "q", "-v", "lr=3", *IMAGE)
    assert said.code == 1
    assert """--config '{"overrides": {"run_config": {"lr": "3"}}}'""" in said.err


async def test_a_bare_queue_flag_is_the_default_queue(cli: Cli, far: Plane) -> None:
    assert (await cli("submit", "-q", *IMAGE)).code == 0
    assert far.submitted[-1]["queueName"] == "default"
    assert spec(far)["project"] == "default"


async def test_the_python_of_the_job_that_is_made_can_be_chosen(
    cli: Cli, far: Plane, folder: Path
) -> None:
    said = await cli("submit", "-q", "-u", str(folder), "-E", "python main.py", "--runtime", "3.9")
    assert said.code == 0, said.err
    (job,) = [each for each in far.versions if each.type == "job"]
    assert json.loads(far.files(job)["wandb-job.json"])["runtime"] == "3.9"


async def test_a_file_needs_no_entry_point_for_it_is_what_is_run(
    cli: Cli, far: Plane, folder: Path
) -> None:
    said = await cli("submit", "-u", str(folder / "main.py"), "-q")
    assert said.code == 0, said.err
    assert far.submitted
    assert far.versions


async def test_a_source_becomes_a_job_and_the_job_is_queued(
    cli: Cli, far: Plane, folder: Path
) -> None:
    said = await cli(
        *("submit", "--uri", str(folder), "--job-name", "hello", "--project", "demo"),
        *("--entry-point", "python main.py", "-q", "-D", "Dockerfile", "-e", "team"),
    )
    assert said.code == 2
    assert "no Dockerfile 'Dockerfile'" in said.err
    (folder / "Dockerfile").write_text("FROM scratch\n")
    said = await cli(
        *("submit", "--uri", str(folder), "--job-name", "hello", "--project", "demo"),
        *("--entry-point", "python main.py", "-q", "-D", "Dockerfile", "-e", "team"),
    )
    assert said.code == 0, said.err
    assert "Created job: team/demo/hello:v0, with alias latest" in said.out
    assert spec(far)["job"] == "team/demo/hello:v0"
    assert "source" not in spec(far)
    assert spec(far)["overrides"] == {
        "dockerfile": "Dockerfile",
        "entry_point": ["python", "main.py"],
    }
    assert spec(far)["name"] == "hello"


@pytest.mark.parametrize("flag", ["--wait", "--follow"])
async def test_standard_output_of_a_followed_job_is_its_own(
    cli: Cli, far: Plane, folder: Path, flag: str
) -> None:
    told = await cli("submit", "-u", str(folder / "main.py"), "-J", "hello", "-q", flag)
    assert told.code == 0, told.err
    assert "Created job: team/default/hello:v0" in told.err
    assert told.out == ""


async def test_a_file_is_what_is_run_and_its_directory_the_source(
    cli: Cli, far: Plane, folder: Path
) -> None:
    said = await cli("submit", "-u", str(folder / "main.py"), "-J", "hello", "-q")
    assert said.code == 0, said.err
    assert "Created job: team/default/hello:v0" in said.out
    source = json.loads(far.files(far.committed("hello")[-1])["wandb-job.json"])["source"]
    assert source["entrypoint"] == ["python", "main.py"]


@pytest.mark.parametrize(
    ("flags", "reference", "project"),
    [
        (("-j", "demo/train:latest"), "team/demo/train:latest", "demo"),
        (("-j", "demo/train", "-p", "other"), "team/demo/train:latest", "other"),
        (("-j", "train:latest", "-p", "demo"), "team/demo/train:latest", "demo"),
    ],
)
async def test_what_a_reference_leaves_out_is_the_callers(
    cli: Cli, far: Plane, folder: Path, flags: tuple[str, ...], reference: str, project: str
) -> None:
    await cli("job", "create", "-p", "demo", "-n", "train", "code", str(folder))
    said = await cli("submit", "-q", *flags)
    assert said.code == 0, said.err
    assert (spec(far)["job"], spec(far)["project"]) == (reference, project)


async def test_an_unknown_queue_is_told_before_a_job_is_made(
    cli: Cli, far: Plane, folder: Path
) -> None:
    far.queues = [{"name": "training", "templateVariables": []}]
    said = await cli("submit", "-u", str(folder), "-E", "python main.py", "-q", "trainin")
    assert (said.code, "`training`" in said.err) == (1, True)
    assert far.versions == []


async def test_a_job_is_launched_again_with_other_parameters(
    cli: Cli, far: Plane, folder: Path
) -> None:
    made = await cli("job", "create", "-p", "demo", "-n", "train", "code", str(folder))
    assert made.code == 0, made.err
    config = '{"overrides": {"run_config": {"lr": 0.1}}}'
    said = await cli(
        *("submit", "--job", "team/demo/train:latest", "-q", "-c", config, "--name", "run-7"),
        *("--", "--steps", "3"),
    )
    assert said.code == 0, said.err
    wanted = {"run_config": {"lr": 0.1}, "args": ["--steps", "3"]}
    assert spec(far) == {
        "job": "team/demo/train:latest",
        "name": "run-7",
        "project": "demo",
        "overrides": wanted,
    }


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("team/demo/trian:latest", ("no job `trian`", "`train`")),
        ("team/demo/train:latst", ("no alias `latst`", "`latest`")),
        ("team/demo/train:v9", ("no version `v9`",)),
    ],
)
async def test_a_job_that_does_not_exist_is_told_before_queueing_with_near_misses(
    cli: Cli, far: Plane, folder: Path, reference: str, parts: tuple[str, ...]
) -> None:
    await cli("job", "create", "-p", "demo", "-n", "train", "code", str(folder))
    said = await cli("submit", "-q", "--job", reference)
    assert said.code == 1
    assert all(part in said.err for part in parts), said.err
    assert far.submitted == []


async def test_hidden_flags_without_effect_say_so(cli: Cli) -> None:
    said = await cli("submit", "-q", "-b", "-rg", "host/repo", "-pq", "other", *IMAGE)
    assert said.code == 0, said.err
    assert all(flag in said.err for flag in ("--build", "--repository", "--project-queue"))


async def test_the_project_comes_from_flag_configuration_job_default(
    cli: Cli, far: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cli("submit", "-q", *IMAGE, "-c", '{"project": "of-config"}')
    assert spec(far)["project"] == "of-config"
    monkeypatch.setenv("WANDB_PROJECT", "of-env")
    await cli("submit", "-q", *IMAGE, "-c", '{"project": "of-config"}')
    assert spec(far)["project"] == "of-env"


async def test_the_jobs_name_may_come_from_the_environment(
    cli: Cli, far: Plane, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_JOB_NAME", "from-env")
    said = await cli("submit", "-q", "-u", str(folder), "-E", "python main.py")
    assert said.code == 0, said.err
    assert spec(far)["job"] == "team/default/from-env:v0"
