"""What commands ask of the server, what they print, and how they end."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.model.phase import Phase
from tests.infrastructure.process import free_port
from tests.unit.cli.conftest import Run
from tests.unit.cli.far_end import KEY, WHEN, FarEnd, RefusalError, agent, ended, item, queue, words


def test_queues_are_listed_for_people_and_for_programs(run: Run) -> None:
    shown = run("queue", "list")
    assert shown.code == 0
    assert "default local-container open 2 0 0 0 0" in words(shown.out)
    assert [each["name"] for each in json.loads(run("queue", "list", "--json").out)] == [
        "default",
        "training",
    ]


def test_a_queue_is_created_from_flags(run: Run, far_end: FarEnd) -> None:
    far_end.answers["saveLaunchQueue"] = lambda asked: queue(asked["input"]["name"])
    made = run("queue", "create", "gpu", "--resource", "local-container")
    assert made.code == 0
    assert "Created the queue `gpu`" in made.out
    assert "No agent serves it yet: start `launch-agent --queue gpu`" in made.out
    assert far_end.last("saveLaunchQueue")["input"] == {
        "entityName": None,
        "mode": "CREATE",
        "name": "gpu",
        "resource": "local-container",
        "prioritizationMode": "V0",
    }


def test_warnings_about_a_saved_queue_are_printed_on_stderr(run: Run, far_end: FarEnd) -> None:
    warnings = ["No built-in runner runs 'kubernetes'.", "Another one."]
    far_end.answers["saveLaunchQueue"] = queue("gpu", resource="kubernetes", warnings=warnings)
    far_end.answers["launchQueues"] = [queue("gpu")]
    expected = "".join(f"launch: {warning}\n" for warning in warnings)
    for command in ("create", "update"):
        shown = run("queue", command, "gpu", "--resource", "kubernetes")
        assert (shown.code, shown.err) == (0, expected)
        assert "the queue `gpu` for kubernetes." in shown.out
        as_json = run("queue", command, "gpu", "--resource", "kubernetes", "--json")
        assert as_json.err == expected
        assert json.loads(as_json.out)["warnings"] == warnings


QUEUE_FILE = """
name: big
resource_args: {local-container: {memory: "{{memory}}"}}
template_variables: {memory: {schema: {type: string}}}
prioritization: false
"""


def test_a_queue_is_created_from_a_file(run: Run, far_end: FarEnd, tmp_path: Path) -> None:
    far_end.answers["saveLaunchQueue"] = lambda asked: queue(asked["input"]["name"])
    (tmp_path / "q.yaml").write_text(QUEUE_FILE)
    assert run("queue", "create", "-f", "q.yaml").code == 0
    asked = far_end.last("saveLaunchQueue")["input"]
    assert asked["resource"] == "local-container"
    assert asked["config"] == {"resource_args": {"local-container": {"memory": "{{memory}}"}}}
    assert asked["prioritizationMode"] == "DISABLED"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("resourc: x", "q.yaml:1: unknown key `resourc`. Did you mean `resource`?"),
        ("name: [a", "q.yaml:1: not valid YAML"),
        ("resource: 5", "q.yaml:1: `resource`: seen `5`; expected a string."),
        ("prioritization: 5", "expected `true` or `false`."),
        ("config: x", "q.yaml:1: `config`: seen `x`; expected a mapping"),
        ("config: {}\nresource_args: {}", "q.yaml:2: `resource_args` is given twice."),
        ("name: x", "The queue `x` needs a resource"),
    ],
)
def test_mistakes_in_a_queue_file_are_named(run: Run, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "q.yaml").write_text(text)
    told = run("queue", "create", "-f", "q.yaml")
    assert told.code == 2
    assert says in words(told.err)


def test_an_update_keeps_what_is_not_given(run: Run, far_end: FarEnd) -> None:
    variable = {"name": "m", "schema": '{"type": "string"}', "description": None}
    far_end.answers["launchQueues"] = [
        queue(config={"a": 1}, templateVariables=[variable], prioritizationMode="DISABLED")
    ]
    far_end.answers["saveLaunchQueue"] = queue()
    assert run("queue", "update", "default", "--resource", "local-process").code == 0
    asked = far_end.last("saveLaunchQueue")["input"]
    assert asked == {
        "entityName": None,
        "mode": "UPDATE",
        "name": "default",
        "resource": "local-process",
        "config": {"a": 1},
        "templateVariables": {"m": {"schema": {"type": "string"}, "description": ""}},
        "prioritizationMode": "DISABLED",
    }


def test_an_update_without_a_change_is_refused(run: Run, far_end: FarEnd) -> None:
    told = run("queue", "update", "training")
    assert (told.code, "No change of the queue `training` is given" in told.err) == (2, True)
    assert not [field for field, _ in far_end.asked if field == "saveLaunchQueue"]


def test_queues_are_shown_paused_resumed_and_deleted(run: Run, far_end: FarEnd) -> None:
    far_end.answers["pauseLaunchQueue"] = lambda asked: queue(paused=asked["paused"])
    far_end.answers["deleteLaunchQueue"] = True
    counts = [
        {"phase": phase, "count": count}
        for phase, count in (("QUEUED", 2), ("LEASED", 1), ("PREPARING", 3), ("ERRORED", 4))
    ]
    far_end.answers["launchQueues"] = [queue(agents=[agent()], counts=counts)]
    shown = run("queue", "show", "default").out
    assert "desk (POLLING" in shown
    assert "2 waiting, 4 preparing, 4 error" in shown
    assert "Paused" in run("queue", "pause", "default").out
    assert far_end.last("pauseLaunchQueue")["paused"] is True
    assert "Resumed" in run("queue", "resume", "default").out
    assert run("queue", "delete", "default", "--force").code == 0
    assert far_end.last("deleteLaunchQueue")["force"] is True


@pytest.mark.parametrize(
    "args",
    [
        ("queue", "show", "trainin"),
        ("queue", "pause", "trainin"),
        ("queue", "delete", "trainin"),
        ("item", "list", "-q", "trainin"),
        ("item", "move", "abc", "--to", "trainin"),
    ],
)
def test_an_unknown_queue_is_named_with_the_nearest(run: Run, args: tuple[str, ...]) -> None:
    told = run(*args)
    assert told.code == 1
    assert "There is no queue `trainin`." in told.err
    assert "Did you mean `training`?" in told.err


def test_submission_to_an_unknown_queue_names_the_nearest(run: Run, far_end: FarEnd) -> None:
    def refuse(_: Any) -> None:
        raise RefusalError("NOT_FOUND", "There is no queue `trainin`.")

    far_end.answers["submitLaunchItem"] = refuse
    told = run("submit", "-q", "trainin", "-d", "some/image")
    assert (told.code, "Did you mean `training`?" in told.err) == (1, True)


def test_a_directory_becomes_a_job_and_is_uploaded_once(
    run: Run, far_end: FarEnd, tmp_path: Path
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "main.py").write_text("print()")
    far_end.answers["submitLaunchItem"] = item()
    flags = ("--uri", "code", "-E", "python main.py", "--name", "hello", "-P", "high")
    first = run("submit", *flags, "-q")
    assert first.code == 0
    assert "launch item logs abcdefghijkl --follow" in first.out
    sent = [path.rpartition("/")[2] for method, path, _ in far_end.rest if method == "PUT"]
    assert sent.count("main.py") == sent.count("wandb-job.json") == 1
    again = run("submit", "-q", *flags)
    assert again.code == 0
    assert "No changes detected for job: ada/default/" in again.out
    assert len([one for one in far_end.rest if one[0] == "PUT"]) == len(sent)
    source, job = far_end.jobs.versions
    assert far_end.jobs.files(source) == {"main.py": b"print()"}
    stored = json.loads(far_end.jobs.files(job)["wandb-job.json"])
    assert stored["source"]["artifact"] == f"wandb-artifact://_id/{source.id}"
    asked = far_end.last("submitLaunchItem")["input"]
    assert asked["runSpec"] == {
        "job": f"ada/default/{job.collection}:v0",
        "name": "hello",
        "project": "default",
        "overrides": {"entry_point": ["python", "main.py"]},
    }
    assert (asked["queueName"], asked["priority"]) == ("default", 1)
    assert len(asked["idempotencyKey"]) == 32


def test_template_variables_get_the_types_that_the_queue_declares(
    run: Run, far_end: FarEnd
) -> None:
    kinds = {"n": "integer", "x": "number", "s": "string", "b": "boolean"}
    variables = [
        {"name": name, "schema": json.dumps({"type": kind}), "description": None}
        for name, kind in kinds.items()
    ]
    far_end.answers["launchQueues"] = [queue(templateVariables=variables)]
    far_end.answers["submitLaunchItem"] = item()
    flags = ("-v", "n=3", "-v", "x=0.5", "-v", "s=a=b", "-v", "b=true")
    assert run("submit", "-q", "-d", "image", *flags).code == 0
    asked = far_end.last("submitLaunchItem")["input"]["templateVariables"]
    assert asked == {"n": 3, "x": 0.5, "s": "a=b", "b": True}
    for flag, says in {
        "n=x": "'x' is not an integer",
        "b=1": "not a boolean",
        "m=1": "no template variable `m`",
        "n": "not of the form KEY=VALUE",
    }.items():
        assert says in run("submit", "-q", "-d", "image", "-v", flag).err


@pytest.mark.parametrize("flags", [(), ("--wait",), ("--follow",)])
def test_a_submission_says_why_it_waits_for_somebody(
    run: Run, far_end: FarEnd, flags: tuple[str, ...]
) -> None:
    far_end.answers["submitLaunchItem"] = item()
    answers = iter([item(), ended()])
    far_end.answers["launchItem"] = lambda _: next(answers)
    done = run("submit", "-q", "-d", "image", *flags)
    assert done.code == 0
    assert "launch: it waits: No live agent serves this queue.\n" in done.err
    assert "launch: Start one.\n" in done.err
    assert flags or f"  Its page:  {far_end.url}/launch/items/abcdefghijkl\n" in done.out


def test_a_submission_that_only_waits_for_its_turn_says_nothing(run: Run, far_end: FarEnd) -> None:
    far_end.answers["submitLaunchItem"] = item()
    turn = {"cause": "SCHEDULE_WAITING", "summary": "Soon.", "remedy": "None.", "details": []}
    far_end.answers["launchItem"] = item(explanation=turn)
    done = run("submit", "-q", "-d", "image")
    assert (done.code, done.err) == (0, "")


def test_a_spec_comes_from_a_file_or_from_json(run: Run, far_end: FarEnd, tmp_path: Path) -> None:
    far_end.answers["submitLaunchItem"] = item()
    (tmp_path / "spec.yaml").write_text("docker: {docker_image: a}\nretries: 2\n")
    resource_args = '{"local-container": {"m": "1g"}}'
    assert run("submit", "-q", "-c", "spec.yaml", "-R", resource_args).code == 0
    spec = far_end.last("submitLaunchItem")["input"]["runSpec"]
    assert spec["retries"] == 2
    assert spec["resource_args"] == {"local-container": {"m": "1g"}}
    missing = run("submit", "-q", "-c", "nowhere.yaml")
    assert (missing.code, "there is no file nowhere.yaml" in missing.err) == (2, True)
    broken = run("submit", "-q", "-c", "{a: [")
    assert (broken.code, "--config:1: not valid JSON" in broken.err) == (2, True)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (ended(), 0),
        (ended("FAILED", 7, cause="RUN_EXIT_CODE", message="exit code 7"), 7),
        (ended("FAILED", None, cause="RUN_DEADLINE", message="too long"), 1),
        (ended("STOPPED", 143, cause="STOPPED_BY_USER", message="stopped"), 1),
        (ended("ERRORED", None, cause="BUILD_FAILED", message="broken"), 1),
    ],
)
@pytest.mark.parametrize("flag", ["--wait", "--follow"])
def test_waiting_ends_as_the_job_does(
    run: Run, far_end: FarEnd, answer: dict[str, Any], code: int, flag: str
) -> None:
    far_end.answers["submitLaunchItem"] = item()
    far_end.answers["launchItem"] = answer
    done = run("submit", "-q", "-d", "image", flag)
    assert done.code == code
    assert Phase(answer["phase"]).word in done.err
    assert done.err.count("exit code 7") <= 1
    if flag == "--follow":
        assert done.out == "job\n"
        assert "setup\n" in done.err
    told = run("submit", "-q", "-d", "image", flag, "--json")
    assert json.loads(told.out)["phase"] == answer["phase"]


def test_what_of_a_submission_does_not_count_is_told(run: Run, far_end: FarEnd) -> None:
    warning = "The queue runs local-container; the submitted resource local-process was not used."
    far_end.answers["submitLaunchItem"] = item(warnings=[warning])
    assert warning in run("submit", "-q", "-d", "image", "-r", "local-process").err


def test_items_are_listed_in_pages_and_filtered(run: Run, far_end: FarEnd) -> None:
    pages = iter([("c1", True, "one"), (None, False, "two")])

    def answer(_: Any) -> Any:
        cursor, more, name = next(pages)
        return {
            "pageInfo": {"endCursor": cursor, "hasNextPage": more},
            "edges": [{"node": item(displayName=name)}],
        }

    far_end.answers["launchItems"] = answer
    shown = run("item", "list", "--queue", "default", "--phase", "failed", "--active")
    assert "one" in shown.out
    assert "two" in shown.out
    asked = far_end.last("launchItems")
    assert (asked["after"], asked["queue"]) == ("c1", "default")
    assert {"FAILED", "QUEUED", "STARTED"} <= set(asked["phases"])
    far_end.answers["launchItems"] = {
        "pageInfo": {"endCursor": None, "hasNextPage": False},
        "edges": [],
    }
    run("item", "list", "--phase", "preparing", "--phase", "queued")
    asked = far_end.last("launchItems")
    assert set(asked["phases"]) == {"LEASED", "PREPARING", "QUEUED"}
    assert "Did you mean `failed`?" in words(run("item", "list", "--phase", "faild").err)


def test_an_item_is_shown_whole(run: Run, far_end: FarEnd) -> None:
    far_end.answers["launchItem"] = ended(
        "FAILED", 3, facts={"commit": "c0ffee"}, warnings=["careful"], name="\x1b[31mred"
    )
    shown = run("item", "show", "abcdefghijkl").out
    assert "commit: c0ffee" in shown
    assert "careful" in shown
    assert "submitted" in shown
    assert "\x1b" not in shown


def test_a_log_without_a_byte_is_told(run: Run, far_end: FarEnd) -> None:
    far_end.answers["launchItem"] = ended("ERRORED", None)
    far_end.logs["job"] = b""
    shown = run("item", "logs", "abcdefghijkl")
    assert (shown.code, shown.out) == (0, "")
    assert "phase: error" in shown.err
    assert "--channel setup" in shown.err


def test_logs_pass_byte_for_byte(run: Run, far_end: FarEnd) -> None:
    far_end.answers["launchItem"] = ended()
    far_end.logs["job"] = b"\x1b[31mred\x1b[0m\r50%\r100%\n"
    assert run("item", "logs", "abcdefghijkl").out.encode() == far_end.logs["job"]
    assert run("item", "logs", "abcdefghijkl", "--channel", "setup").out == "setup\n"
    far_end.answers["launchItem"] = item()
    told = run("item", "logs", "abcdefghijkl")
    assert (told.code, "no log yet; phase: waiting" in told.err) == (1, True)


@pytest.mark.parametrize(
    ("args", "field", "asked"),
    [
        (("stop", "i"), "stopLaunchItem", {"id": "i"}),
        (("retry", "i"), "retryLaunchItem", {"id": "i", "attempt": 1}),
        (("move", "i", "--to", "training"), "moveLaunchItem", {"id": "i", "queueName": "training"}),
        (("priority", "i", "high"), "setLaunchItemPriority", {"id": "i", "priority": 1}),
        (("priority", "i", "0"), "setLaunchItemPriority", {"id": "i", "priority": 0}),
    ],
)
def test_items_are_changed(
    run: Run, far_end: FarEnd, args: tuple[str, ...], field: str, asked: dict[str, Any]
) -> None:
    far_end.answers[field] = item(stopRequested=True)
    done = run("item", *args)
    assert done.code == 0
    assert far_end.last(field) == asked
    assert "waiting on `default`, medium, stop requested" in done.out


@pytest.mark.parametrize("args", [("item", "show"), ("item", "logs"), ("explain",)])
@pytest.mark.parametrize("name", ["bad", "lr small"])
def test_a_name_in_place_of_an_id_is_answered_with_the_ids(
    run: Run, far_end: FarEnd, args: tuple[str, ...], name: str
) -> None:
    far_end.answers["launchItem"] = None
    found = [item("second000000", displayName=name), item("third0000000", displayName=f"{name}2")]
    far_end.answers["launchItems"] = {
        "pageInfo": {"endCursor": None, "hasNextPage": False},
        "edges": [{"node": each} for each in found],
    }
    done = run(*args, name)
    assert done.code != 0
    assert "Items of that name, newest first: `second000000`." in done.err
    assert far_end.last("launchItems")["search"] == name


def test_a_change_by_name_is_answered_with_the_ids(run: Run, far_end: FarEnd) -> None:
    def gone(_: dict[str, Any]) -> Any:
        raise RefusalError("NOT_FOUND", "There is no item `bad`.")

    far_end.answers["stopLaunchItem"] = gone
    found = [{"node": item("second000000", displayName="bad")}]
    page = {"endCursor": None, "hasNextPage": False}
    far_end.answers["launchItems"] = {"pageInfo": page, "edges": found}
    done = run("item", "stop", "bad")
    assert done.code == 1
    assert "Items of that name, newest first: `second000000`." in done.err


def test_an_item_is_shown_with_its_run_and_its_page(run: Run, far_end: FarEnd) -> None:
    far_end.answers["launchItem"] = item("abcdefghijkl", runName="run00001")
    shown = run("item", "show", "abcdefghijkl").out
    assert re.search(r"^run +run00001$", shown, re.MULTILINE)
    assert re.search(
        rf"^page +{re.escape(far_end.url)}/launch/items/abcdefghijkl$", shown, re.MULTILINE
    )


def test_an_item_that_is_refused_keeps_nobody_from_the_others(run: Run, far_end: FarEnd) -> None:
    def stop(asked: dict[str, Any]) -> Any:
        if asked["id"] == "gone":
            raise RefusalError("NOT_FOUND", "There is no item `gone`.")
        return item(asked["id"], phase="STOPPED")

    far_end.answers["stopLaunchItem"] = stop
    done = run("item", "stop", "one", "gone", "two")
    assert done.code == 1
    assert [line.split(":")[0] for line in done.out.splitlines()] == ["one", "two"]
    assert "no item `gone`" in done.err
    told = run("item", "stop", "one", "gone", "two", "--json")
    assert [each["id"] for each in json.loads(told.out)] == ["one", "two"]
    alone = run("item", "stop", "gone", "--json")
    assert (alone.code, alone.out) == (1, "")


@pytest.mark.parametrize(
    ("cause", "says"),
    [("RUN_EXIT_CODE", "exit 143"), ("RUN_DEADLINE", "RUN_DEADLINE")],
)
def test_the_result_is_the_cause_where_the_job_did_not_end_by_itself(
    run: Run, far_end: FarEnd, cause: str, says: str
) -> None:
    over = ended("FAILED", 143, cause=cause, message="stopped after its timeout; exit code 143")
    ends = {"endCursor": None, "hasNextPage": False}
    far_end.answers["launchItems"] = {"pageInfo": ends, "edges": [{"node": over}]}
    assert run("item", "list").out.splitlines()[1].endswith(says)


def test_what_is_no_priority_or_item_is_told(run: Run, far_end: FarEnd) -> None:
    assert "'urgent' is not a priority" in run("item", "priority", "i", "urgent").err
    far_end.answers["launchItem"] = None
    assert run("item", "show", "nothere").code == 1
    assert run("item", "show", "no-id!").code == 2


def test_agents_are_listed_shown_drained_and_stopped(run: Run, far_end: FarEnd) -> None:
    far_end.answers["launchAgents"] = [agent(), agent("old", lost=True)]
    far_end.answers["stopLaunchAgent"] = agent(draining=True)
    listed = words(run("agent", "list").out)
    assert "desk default POLLING 0" in listed
    assert "old default lost" in listed
    shown = run("agent", "show", "desk").out
    assert "4 jobs; 2 cores; 1.0 GiB memory; GPUs 0" in shown
    assert "finish its jobs" in run("agent", "drain", "desk").out
    assert far_end.last("stopLaunchAgent") == {"id": "id-desk", "mode": "DRAIN"}
    assert run("agent", "stop", "id-desk").code == 0
    assert far_end.last("stopLaunchAgent")["mode"] == "STOP"
    far_end.answers["stopLaunchAgent"] = agent(draining=True, lost=True)
    assert "receives this when it comes back" in run("agent", "stop", "desk").out
    told = run("agent", "stop", "dsk")
    assert (told.code, "Did you mean `desk`?" in told.err) == (1, True)


CONDITION = {"kind": "DISK_LOW", "message": "1.0 GiB are free.", "resource": None}


def test_what_is_wrong_with_an_agent_is_listed_and_shown(run: Run, far_end: FarEnd) -> None:
    gone = agent("old", lost=True, conditions=[CONDITION])
    far_end.answers["launchAgents"] = [agent(conditions=[CONDITION]), gone]
    listed = words(run("agent", "list").out)
    assert "desk default POLLING, disk low 0" in listed
    assert "old default lost 0" in listed
    assert "1.0 GiB are free." in run("agent", "show", "desk").out
    assert json.loads(run("agent", "show", "desk", "--json").out)["conditions"] == [CONDITION]


def test_an_agent_that_shut_down_is_not_asked_to_do_so(run: Run, far_end: FarEnd) -> None:
    far_end.answers["launchAgents"] = [agent(agentStatus="KILLED")]
    assert "desk default shut down" in words(run("agent", "list").out)
    told = run("agent", "drain", "desk")
    assert (told.code, "The agent `desk` shut down" in told.err) == (1, True)
    assert not [field for field, _ in far_end.asked if field == "stopLaunchAgent"]


def test_explain_gives_one_answer(run: Run, far_end: FarEnd) -> None:
    told = run("explain", "abcdefghijkl")
    assert ": waiting, SCHEDULE_NO_AGENT" in told.out
    assert "What to do: Start one." in told.out
    assert json.loads(run("explain", "x", "--json").out)["explanation"]["remedy"] == "Start one."
    far_end.answers["launchItem"] = ended("FAILED", 1, message="exit code 1")
    assert run("explain", "x").out.count("exit code 1") == 1
    summary = {"cause": "SUCCEEDED", "summary": "The job ended with exit code 0.", "remedy": ""}
    told = {**summary, "details": ["exit code 0", "Attempt 1, on agent desk."]}
    far_end.answers["launchItem"] = ended(message="exit code 0", explanation=told)
    assert run("explain", "x").out.count("exit code 0") == 1


def test_explain_of_a_failed_job_names_the_step_and_quotes_the_end_of_its_log(
    run: Run, far_end: FarEnd
) -> None:
    failed = ended("FAILED", 1, message="exit code 1")
    size = 20_000
    failed["attempts"][0] |= {"jobLogBytes": size, "setupLogBytes": 9}
    step = {**failed["events"][0], "phase": "STARTED"}
    failed["events"] += [step, {**step, "phase": "FAILED"}]
    far_end.answers["launchItem"] = failed
    end = b"".join(b"line %d\n" % number for number in range(30))
    end += b"\x1b[31mstep 1\rstep 9\x1b[0m\nValueError: no data\x07\n"
    far_end.logs["job"] = end.rjust(size, b"x")

    told = run("explain", "abcdefghijkl").out
    as_json = json.loads(run("explain", "abcdefghijkl", "--json").out)

    assert "It ended while it was running." in told
    assert "  | step 9\n  | ValueError: no data\\x07\nWhat to do:" in told
    assert "line 21\n" not in told
    assert "line 22\n" in told
    assert (as_json["step"], as_json["log"]["channel"]) == ("running", "job")
    assert len(as_json["log"]["lines"]) == 10


def test_explain_of_what_never_ran_quotes_the_setup_log(run: Run, far_end: FarEnd) -> None:
    failed = ended("ERRORED", None, cause="BUILD_REQUIREMENTS")
    failed["attempts"][0] |= {"jobLogBytes": 0, "setupLogBytes": 6}
    far_end.answers["launchItem"] = failed
    told = run("explain", "abcdefghijkl").out
    assert "It ended while it was waiting." in told
    assert "The end of its setup log:\n  | setup" in told
    failed["attempts"][0] |= {"setupLogBytes": 0}
    assert "log:" not in run("explain", "abcdefghijkl").out


def test_items_have_names_jobs_and_can_be_printed_as_ids(run: Run, far_end: FarEnd) -> None:
    named = item(name=None, displayName="train", job="ada/demo/train")
    page = {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": [{"node": named}]}
    far_end.answers["launchItems"] = page
    listed = words(run("item", "list", "-s", "tr", "-j", "train", "--author", "ada").out)
    asked = far_end.last("launchItems")
    assert "abcdefghijkl train train default waiting" in listed
    assert (asked["search"], asked["job"], asked["author"]) == ("tr", "train", "ada")
    assert run("item", "list", "--ids").out == "abcdefghijkl\n"


def test_keys_users_and_teams(run: Run, far_end: FarEnd) -> None:
    key = {
        "id": "k1", "kind": "agent", "name": "cli", "hint": "abcd", "user": None, "entity": "ada",
        "queues": ["gpu"], "createdAt": WHEN, "revokedAt": None, "expiresAt": None,
    }  # fmt: skip
    far_end.answers |= {
        "createLaunchAgentKey": {"secret": "launch-s", "key": key},
        "createLaunchKey": {"secret": "launch-u", "key": {**key, "kind": "user"}},
        "launchKeys": [key],
        "revokeLaunchKey": True,
        "createLaunchUser": {
            "id": "u", "name": "bob", "email": None, "admin": False, "entity": "bob",
            "createdAt": WHEN, "disabledAt": None,
        },
        "createLaunchTeam": {"id": "t"},
        "launchEntities": [{"id": "t", "name": "team", "isTeam": True}],
        "launchMembers": [{"user": "bob", "entity": "team", "role": "MEMBER", "accepted": False}],
        "setLaunchMember": True,
    }  # fmt: skip
    made = json.loads(run("key", "create", "--for-agent", "-q", "gpu", "--json").out)
    assert (made["url"], made["key"]) == (far_end.url, "launch-s")
    assert far_end.last("createLaunchAgentKey")["queues"] == ["gpu"]
    assert run("key", "create", "mine", "--for-user", "bob").out == "launch-u\n"
    assert far_end.last("createLaunchKey") == {"name": "mine", "user": "bob", "expires": None}
    assert run("key", "create", "-q", "gpu").code == 2
    assert "gpu" in run("key", "list", "--agents").out
    assert run("key", "revoke", "k1").code == 0
    assert "bob" in run("user", "create", "bob").out
    assert run("entity", "create", "team").code == 0
    assert "team" in run("entity", "list").out
    assert re.search(r"bob +member +invited", run("entity", "members", "team").out)
    assert run("entity", "member", "team", "bob", "none").code == 0
    assert far_end.last("setLaunchMember")["role"] is None


def test_keys_that_expire_and_keys_of_others(run: Run, far_end: FarEnd) -> None:
    key = {
        "id": "k1", "kind": "user", "name": "cli", "hint": "abcd", "user": "bob", "entity": None,
        "queues": None, "createdAt": WHEN, "revokedAt": None, "expiresAt": "2020-01-02T03:04:05Z",
    }  # fmt: skip
    far_end.answers |= {
        "createLaunchKey": {"secret": "launch-u", "key": key},
        "launchKeys": [key, {**key, "expiresAt": "2999-01-02T03:04:05Z"}],
    }
    assert run("key", "create", "--expires", "90d").out == "launch-u\n"
    assert far_end.last("createLaunchKey")["expires"] == 90 * 86400
    assert run("key", "create", "--expires", "soon").code == 2
    listed = run("key", "list", "--all").out
    assert "expired 2020-01-02 03:04 UTC" in listed
    assert "valid until 2999-01-02 03:04 UTC" in listed
    assert "bob" in listed
    assert far_end.last("launchKeys") == {"entity": None, "user": None, "all": True}
    run("key", "list", "--user", "bob")
    assert far_end.last("launchKeys")["user"] == "bob"
    assert run("key", "list", "--all", "--agents").code == 2


def test_users_invitations_and_the_audit_log(run: Run, far_end: FarEnd) -> None:
    user = {
        "id": "u", "name": "bob", "email": None, "admin": False, "entity": "bob",
        "createdAt": WHEN, "disabledAt": WHEN,
    }  # fmt: skip
    entry = {
        "seq": 7, "at": WHEN, "actor": "", "keyId": None, "action": "member.set",
        "entity": "team", "details": {"user": "bob", "queues": ["a", "b"]},
        "address": "192.0.2.7", "result": "FORBIDDEN",
    }  # fmt: skip
    far_end.answers |= {
        "launchUsers": [user],
        "disableLaunchUser": {"id": "u"},
        "launchInvitations": [{"entity": "team", "role": "MEMBER"}],
        "answerLaunchInvitation": True,
        "launchAudit": {"edges": [{"node": entry}]},
        "launchAuditProblem": None,
    }
    assert re.search(r"bob .*disabled", run("user", "list").out)
    assert run("user", "disable", "bob").code == 0
    assert far_end.last("disableLaunchUser") == {"name": "bob", "disabled": True}
    assert run("user", "enable", "bob").code == 0
    assert far_end.last("disableLaunchUser")["disabled"] is False
    assert re.search(r"team +member", run("entity", "invitations").out)
    assert run("entity", "join", "team").code == 0
    assert far_end.last("answerLaunchInvitation") == {"entity": "team", "accept": True}
    assert run("entity", "leave", "team").code == 0
    assert far_end.last("answerLaunchInvitation")["accept"] is False
    assert json.loads(run("audit", "--json").out) == [entry]
    shown = run("audit").out
    for part in ("member.set", "user=bob queues=a,b", "192.0.2.7", "FORBIDDEN"):
        assert part in shown
    assert run("audit", "--verify").code == 0
    far_end.answers["launchAuditProblem"] = 3
    broken = run("audit", "--verify")
    assert (broken.code != 0, "Entry 3" in broken.err) == (True, True)


def test_a_browser_is_signed_in_by_a_link(run: Run, far_end: FarEnd) -> None:
    assert run("open").out == f"{far_end.url}/login/link?token=t\n"


def test_login_tries_the_key_and_keeps_it(
    bare: Run, far_end: FarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def typed(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))

    typed("launch-wrong\n")
    assert bare("login", far_end.url).code == 4
    typed("\n")
    assert bare("login", far_end.url).code == 2
    typed(KEY + "\n")
    done = bare("login", far_end.url)
    assert (done.code, "as ada" in done.out) == (0, True)
    monkeypatch.setenv("LAUNCH_SERVER", far_end.url)
    assert bare("queue", "list").code == 0


# ---- errors and exit codes


def test_a_wrong_key_ends_with_4(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUNCH_API_KEY", "launch-wrong")
    told = run("queue", "list")
    assert (told.code, "not known" in told.err) == (4, True)
    assert "launch-wrong" not in told.err


def test_an_unreachable_server_is_named_and_ends_with_3(
    bare: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("LAUNCH_SERVER", url)
    monkeypatch.setenv("LAUNCH_API_KEY", KEY)
    told = bare("queue", "list", "--retry-for", "0")
    assert (told.code, "Traceback" in told.err) == (3, False)
    assert f"{url} cannot be reached: no connection was made (Connection refused)." in told.err


def test_without_a_server_the_way_to_one_is_told(bare: Run) -> None:
    told = bare("queue", "list")
    assert told.code == 2
    assert "launch-agent --queue default" in told.err


def test_an_unexpected_error_is_one_line(run: Run, far_end: FarEnd) -> None:
    far_end.answers["launchQueues"] = [{"unexpected": "shape"}]
    told = run("queue", "list")
    assert told.code == 1
    assert "failed unexpectedly: KeyError" in told.err
    assert "Traceback" not in told.err
    assert "Traceback" in run("--debug", "queue", "list").err


def test_the_servers_hint_is_passed_on(run: Run, far_end: FarEnd) -> None:
    def refuse(_: Any) -> None:
        raise RefusalError("CONFLICT", "The item has ended.", "Retry it.")

    far_end.answers["stopLaunchItem"] = refuse
    told = run("item", "stop", "abc")
    assert (told.code, told.err) == (1, "Error: The item has ended.\n  Retry it.\n")


def test_usage_errors_end_with_2_and_name_the_nearest_command(bare: Run) -> None:
    told = bare("quee", "list")
    assert (told.code, "Did you mean `queue`?" in told.err) == (2, True)
    assert bare("item", "list", "--nonsense").code == 2
    assert bare("--help").code == 0


@pytest.mark.parametrize("flags", [(), ("--uri",)])
def test_what_the_system_says_of_a_path_is_told_with_the_path(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    real = Path.stat

    def closed(path: Path, **more: bool) -> os.stat_result:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **more)

    monkeypatch.setattr(Path, "stat", closed)
    words = ("submit", "-E", "python main.py", *flags) if flags else ("job", "create", "-p", "p")
    told = run(*words, *(() if flags else ("code",)), "closed", *(("-q", "q") if flags else ()))
    assert told.code == 2
    assert "cannot be used: Permission denied." in told.err
    assert "unexpectedly" not in told.err


FOLLOWING = ("submit", "-d", "org/app:1", "-q", "default", "--follow")


@pytest.mark.parametrize(
    ("words", "code"), [(("--help",), 0), (("queue", "list"), 0), (FOLLOWING, 141)]
)
def test_a_closed_pipe_is_no_error_and_no_success_of_a_job(
    far_end: FarEnd, tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    """Whoever says `launch … | head -1` under `pipefail` has not met an error.

    How a followed job ends, which is the command's own exit code, is not known then.
    """
    far_end.answers["launchQueues"] = [queue()]
    far_end.answers["submitLaunchItem"] = item()
    far_end.answers["launchItem"] = ended()
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli.main", *words],
        env={"HOME": str(tmp_path), "LAUNCH_SERVER": far_end.url, "LAUNCH_API_KEY": KEY},
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, b"Traceback" in done.stderr) == (code, False)
