"""`launch render` and `launch submit --dry-run`: everything is shown, nothing is queued."""

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home

#: No engine is asked, so these run on machines without one.
CONFIG = {"runners": {"local-container": {"enabled": False}}}


@pytest.fixture
async def served(home: Home) -> Home:
    home.configure(quick(**CONFIG))
    project = home.root / "job"
    project.mkdir()
    (project / "main.py").write_text("print('hello')\n")
    (project / "requirements.txt").write_text("six==1.16.0\n")
    await home.start("launch-agent", "--queue", "default")
    template = '{"resource_args": {"local-container": {"memory": "2g"}}}'
    made = await home.launch(
        "queue", "create", "gpu", "-r", "local-container", "--config", template
    )
    assert made.code == 0, made.err
    return home


WORDS = ("--uri", "./job", "--entry-point", "python main.py", "--queue", "gpu")


async def test_a_directory_is_shown_with_its_dockerfile_container_and_layers(served: Home) -> None:
    done = await served.launch("render", *WORDS, "-c", '{"overrides": {"run_config": {"lr": 1}}}')
    assert done.code == 0, done.err
    assert "FROM python:3.11-slim" in done.out
    assert '"Memory": 2147483648' in done.out
    assert "WANDB_API_KEY" in done.out
    layers = {line.split()[0]: line.split()[-1] for line in done.out.splitlines() if line.strip()}
    assert layers["resource_args.local-container.memory"] == "queue"
    assert layers["overrides.run_config.lr"] == "submitter"
    assert not (served.root / "job/requirements.frozen.txt").exists()


async def test_a_dry_run_says_the_same_and_queues_nothing(served: Home) -> None:
    done = await served.launch("submit", *WORDS, "--dry-run", "--json")
    assert done.code == 0, done.err
    shown = done.json()
    assert shown["workload"]["Entrypoint"] == ["python", "main.py"]
    assert shown["build"]["requirements"] == "requirements.txt"
    assert shown["environment"]["WANDB_API_KEY"] == "***"
    assert (await served.launch("item", "list", "--json")).json() == []


async def test_a_ready_image_has_no_dockerfile(served: Home) -> None:
    done = await served.launch("render", "-d", "org/app:1", "--queue", "gpu", "--json")
    assert done.code == 0, done.err
    assert done.json()["build"] is None
    assert done.json()["workload"]["Image"] == "org/app:1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--uri", "./job", "-E", "python nope.py", "--queue", "gpu"),
            "'nope.py' is not in the source",
        ),
        ((*WORDS, "--build-context", "../x"), "leads out of the source by `..`"),
        ((*WORDS, "-R", '{"local-container": {"privileged": true}}'), "privileged"),
        ((*WORDS[:-1], "gup"), "There is no queue `gup`"),
        (("nothing/nope:latest", "--queue", "gpu"), "nope"),
    ],
)
async def test_what_a_run_would_refuse_ends_with_its_message(
    served: Home, words: tuple[str, ...], message: str
) -> None:
    done = await served.launch("render", *words)
    assert done.code != 0
    assert message in done.err


async def test_the_values_of_a_queues_variables_are_in_what_is_shown(served: Home) -> None:
    (served.root / "queue.yaml").write_text(
        "name: sized\n"
        "resource: local-container\n"
        "resource_args: {local-container: {memory: '{{memory}}'}}\n"
        "template_variables: {memory: {schema: {type: string, enum: [1g, 2g]}}}\n"
    )
    made = await served.launch("queue", "create", "-f", "queue.yaml")
    assert made.code == 0, made.err
    words = ("submit", *WORDS[:-1], "sized", "--dry-run")
    done = await served.launch(*words, "-v", "memory=2g", "--json")
    assert done.code == 0, done.err
    assert done.json()["workload"]["HostConfig"]["Memory"] == 2 << 30
    wrong = await served.launch(*words, "-v", "memory=3g")
    assert wrong.code == 2
    assert '`memory`: "3g" breaks the rule `enum:' in wrong.err
    none = await served.launch(*words)
    assert "Template variable `memory` has no value" in none.err


async def test_a_file_is_shown_as_what_is_run(served: Home) -> None:
    done = await served.launch("submit", "--uri", "job/main.py", "-q", "gpu", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert done.json()["workload"]["Entrypoint"] == ["python", "main.py"]
    told = await served.launch("render", *WORDS, "--source", "git")
    assert (told.code, "a code job, not a Git job: it is no checkout" in told.err) == (0, True)
    assert "/default/job-code-job_main.py:latest" in told.out


async def test_a_dry_run_makes_the_jobs_python_and_name_as_the_submission_would(
    served: Home,
) -> None:
    (served.root / "job/runtime.txt").write_text("python-3.12.1\n")
    words = ("submit", *WORDS, "-J", "train")
    shown = (await served.launch(*words, "--dry-run", "--json")).json()
    assert "FROM python:3.12-slim" in shown["build"]["dockerfile"]
    assert shown["facts"]["job"].endswith("/default/train:latest")
    assert (await served.launch("job", "list", "-p", "default", "--json")).json() == []


async def test_what_a_submission_would_refuse_is_refused(served: Home) -> None:
    (served.root / "schema.json").write_text('{"properties": {"lr": {"maximum": 1}}}')
    made = await served.launch(
        "job", "create", "-p", "demo", "-n", "train", "--schema", "schema.json", "code", "job"
    )
    assert made.code == 0, made.err
    words = ("submit", "--job", "demo/train", "-q", "gpu", "--dry-run")
    fine = await served.launch(*words, "-c", '{"overrides": {"run_config": {"lr": 1}}}')
    assert fine.code == 0, fine.err
    wrong = await served.launch(*words, "-c", '{"overrides": {"run_config": {"lr": 3}}}')
    assert wrong.code == 2
    assert "`overrides.run_config.lr`: 3 breaks the rule `maximum: 1`" in wrong.err
    flat = await served.launch(
        "queue", "create", "flat", "-r", "local-container", "--no-prioritization"
    )
    assert flat.code == 0, flat.err
    high = await served.launch(*words[:-2], "flat", "--dry-run", "-P", "high")
    assert (high.code, "no priorities, and `high` was" in high.err) == (2, True)


async def test_a_remark_about_job_and_submission_is_printed_once(served: Home) -> None:
    words = ("--uri", "./job", "-E", "python main.py | tee log", "--queue", "gpu")
    for command in (("render",), ("submit",), ("submit", "--dry-run")):
        done = await served.launch(*command, *words)
        assert done.code == 0, done.err
        assert done.err.count("No shell runs the entry point") == 1, done.err
    as_json = await served.launch("submit", *words, "--json")
    assert "No shell runs the entry point" in as_json.json()["warnings"][0]
