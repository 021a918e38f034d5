"""BuildKit's plain progress: which step failed, what it said, and what that means."""

from pathlib import Path

import pytest

from agent.builders.buildkit_output import ENGINE, BuildProgress, _last, build_error
from agent.builders.image.plan import Plan
from agent.builders.requirements import NONE, Requirements
from agent.builders.uv import UNEXPLAINED, explain, install_error, last_lines
from agent.model.cause import Cause
from agent.model.job.requirements import RequirementLine

TITLE = "team/p/x"
FAR = "The buildkitd at tcp://b:1"
LINES = (
    RequirementLine("six", "requirements.txt, line 4"),
    RequirementLine("!!bad", "base.txt, line 9"),
)
FOUND = Requirements("requirements.txt", LINES)
OWN = Plan(Path("/c"), Path("/c/Dockerfile"), NONE, (), "", "")
GENERATED = Plan(Path("/c"), None, FOUND, (), "", "")


def read(text, size=7):
    progress = BuildProgress()
    data = text.encode()
    for start in range(0, len(data), size):
        progress.feed(data[start : start + size])
    progress.finish()
    return progress


FAILED_RUN = """#0 building with "default" instance using docker driver

#1 [internal] load build definition from Dockerfile
#1 DONE 0.0s

#5 [2/3] RUN make things
#5 0.100 fine so far
#5 DONE 0.2s
#6 [3/3] RUN ./configure && make
#6 0.158 checking
#6 0.201 boom \x1b[31mred\x1b[0m
#6 ERROR: process "/bin/sh -c ./configure && make" did not complete successfully: exit code: 3
------
 > [3/3] RUN ./configure && make:
0.158 checking
------
ERROR: failed to solve: process "/bin/sh -c ./configure && make" ended: exit code: 3
"""


def test_the_failed_step_and_its_lines_are_found_however_the_output_is_cut():
    progress = read(FAILED_RUN)
    assert progress.failed_step == "[3/3] RUN ./configure && make"
    assert progress.failed_output.splitlines() == ["checking", "boom \x1b[31mred\x1b[0m"]
    assert "exit code: 3" in progress.error


def test_a_failed_step_of_a_dockerfile_is_shown_with_its_last_lines():
    error = build_error(TITLE, OWN, read(FAILED_RUN), ENGINE)
    assert error.cause is Cause.BUILD_DOCKERFILE
    assert "Dockerfile 'Dockerfile', step [3/3] RUN ./configure && make failed" in error.message
    assert error.message.endswith("checking\nboom red")


def test_a_long_line_is_cut_and_memory_stays_bounded():
    progress = read("#1 [1/1] RUN x\n#1 0.1 " + "y" * 100_000 + "\n" + "#1 0.2 z\n" * 500, 999)
    assert len(progress._tails["1"]) == 60
    assert max(map(len, progress._tails["1"])) < 5000


def step(name, error, *lines):
    said = "".join(f"#4 0.1 {line}\n" for line in lines)
    return read(f"#4 {name}\n{said}#4 ERROR: {error}\nERROR: failed to solve: {error}\n")


STOPPED = """#3 importing cache manifest from reg/x:launch-cache-1
#3 ERROR: failed to configure registry cache importer: reg/x:launch-cache-1: not found

#6 [2/3] RUN sleep 3600
#6 0.229 slow-step
#6 CANCELED
------
 > importing cache manifest from reg/x:launch-cache-1:
------
ERROR: failed to solve: Canceled: context canceled
"""


def test_a_daemon_that_shuts_down_is_not_the_jobs_fault_and_no_missing_cache():
    """Recorded from buildkitd 0.13 when its pod was deleted."""
    error = build_error(TITLE, OWN, read(STOPPED), FAR)
    assert error.cause is Cause.BUILD_UNAVAILABLE
    assert error.message.startswith(f"{FAR} does not answer (failed to solve: Canceled")


INSTALL = "[2/4] RUN --mount=x     sh /run/launch/install.sh base 1000"
PROCESS = 'process "/bin/sh -c …" did not complete successfully: exit code: 1'
METADATA = "[internal] load metadata for docker.io/library/nothing:1"


@pytest.mark.parametrize(
    ("progress", "plan", "cause", "words"),
    [
        (
            step(INSTALL, PROCESS, "error: No solution found when resolving dependencies",
                 "  cause: Because nosuch was not found in the package registry and you require"),
            GENERATED, Cause.BUILD_REQUIREMENTS, "package `nosuch` does not exist",
        ),
        (
            step(INSTALL, PROCESS, "error: Unexpected '!', expected '-c', '-e', '-r' or the start "
                 "of a requirement: /run/launch/requirements.txt:2:1"),
            GENERATED, Cause.BUILD_REQUIREMENTS, "base.txt, line 9: Unexpected '!'",
        ),
        (
            step(INSTALL, PROCESS, "launch: the base image has no Python to install packages with"),
            GENERATED, Cause.BUILD_REQUIREMENTS, "the base image has no Python",
        ),
        (
            step(INSTALL, "failed to create endpoint x on network bridge: no more addresses"),
            GENERATED, Cause.BUILD_UNAVAILABLE, "failed to create endpoint x on network bridge",
        ),
        (
            step("[3/4] COPY . .", "something odd"),
            GENERATED, Cause.BUILD_FAILED, "Building team/p/x failed: something odd.",
        ),
        (
            step("[2/2] RUN make -j", PROCESS.replace("code: 1", "code: 137"), "cc1plus"),
            OWN, Cause.BUILD_OUT_OF_MEMORY, "step [2/2] RUN make -j was killed",
        ),
        (
            step(INSTALL, PROCESS.replace("code: 1", "code: 137")),
            GENERATED, Cause.BUILD_OUT_OF_MEMORY, "most likely because memory was short",
        ),
        (
            step("exporting to image", "failed to push reg/x:1: push access denied, repository "
                 "does not exist or may require authorization"),
            OWN, Cause.BUILD_PUSH, "The image of team/p/x cannot be pushed (failed to push reg/x",
        ),
        (
            step("[2/2] RUN pip install nosuch", PROCESS,
                 "Because nosuch was not found in the package registry and"),
            OWN, Cause.BUILD_DOCKERFILE, "(package `nosuch` does not exist in the package index)",
        ),
        (
            step("[2/2] COPY nofile /x", '"/nofile": not found'),
            OWN, Cause.BUILD_DOCKERFILE, 'step [2/2] COPY nofile /x failed: "/nofile": not found.',
        ),
        (
            read("ERROR: failed to solve: parse error on line 2: unknown instruction: X\n"),
            OWN, Cause.BUILD_DOCKERFILE, "parse error on line 2",
        ),
        (
            step(METADATA, "docker.io/library/nothing:1: not found"),
            GENERATED, Cause.BUILD_FAILED, "'nothing:1' does not exist, or needs a login",
        ),
        (
            step(METADATA, "no match for platform in manifest: not found"),
            OWN, Cause.BUILD_FAILED, "does not exist for this machine's platform",
        ),
        (
            step(METADATA, "dial tcp: lookup r: no such host"),
            OWN, Cause.BUILD_UNAVAILABLE, "Base image 'nothing:1' cannot be pulled",
        ),
        (
            step("[2/2] RUN x", "write /x: no space left on device"),
            OWN, Cause.DISK_FULL, "no space is left",
        ),
        (
            step("[2/2] RUN dd", PROCESS, "dd: error writing 'x': No space left on device"),
            OWN, Cause.DISK_FULL, "no space is left",
        ),
        (
            read("ERROR: Cannot connect to the Docker daemon at unix:///x. Is it running?\n"),
            OWN, Cause.BUILD_UNAVAILABLE, "The container engine does not answer",
        ),
        (
            step("[2/2] RUN x", "rpc error: code = Unavailable desc = EOF"),
            OWN, Cause.BUILD_UNAVAILABLE, "The container engine does not answer",
        ),
    ],
)  # fmt: skip
def test_a_failed_build_has_a_cause(progress, plan, cause, words):
    error = build_error(TITLE, plan, progress, ENGINE)
    assert error.cause is cause
    assert words in error.message


def test_an_engine_that_left_without_an_error_line_is_quoted():
    progress = read("failed to list workers: x\n")
    assert "failed to list workers: x" in build_error(TITLE, OWN, progress, ENGINE).message
    assert _last(BuildProgress()) == "it gave no reason"


JOB, DISK, INDEX = Cause.BUILD_REQUIREMENTS, Cause.DISK_FULL, Cause.BUILD_UNAVAILABLE
CONFLICT = """error: No solution found when resolving dependencies
  cause: Because you require a==1 and
 a==2, we can conclude that"""
UNREACHABLE = """error: Request failed after 3 retries
 cause: error sending request for url (https://h/six/)"""
GIT = """error: Failed to download and build `foo @ git+https://h/foo`
  cause: Git operation failed
         fatal: """
GIT_REFUSED = f"{GIT}repository not found"
GIT_UNREACHABLE = f"{GIT}unable to access 'https://h/': Failed to connect to h port 443"
CERTIFICATE = """error: Failed to fetch: `https://h/six/`
 cause: error sending request for url (https://h/six/)
 cause: invalid peer certificate: UnknownIssuer"""
HIDDEN = """error: No solution found when resolving dependencies:
  cause: Because there is no version of six==1.17.0 and you require six==1.17.0
hint: `six` was found on https://extra, but not at the requested version (six==1.17.0)."""
REFUSED = """error: Failed to fetch: `https://h/six/`
 cause: HTTP status client error (401 Unauthorized) for url"""


@pytest.mark.parametrize(
    ("output", "cause", "words"),
    [
        ("Because there is no version of six==99 and you", JOB, "no version `six==99`"),
        (CONFLICT, JOB, "contradict each other: you require a==1 and a==2"),
        ("error: Failed to build `numpy==1.21.0`\n", JOB, "`numpy==1.21.0` could not be built"),
        ("error: The build backend returned an error\n", JOB, "could not be built from its source"),
        ("error: Distribution not found at: file:///x/y", JOB, "file:///x/y does not exist"),
        ("error: Failed to fetch: `http://127.0.0.1:1/six/`\n", INDEX, "1:1/six/ cannot be"),
        (UNREACHABLE, INDEX, "https://h/six/ cannot be fetched"),
        (GIT_REFUSED, JOB, "cannot be fetched with git (fatal: repository not found)"),
        (GIT_UNREACHABLE, INDEX, "git cannot reach the server of a requirement (Failed to connect"),
        ("error: Git executable not found. Ensure that Git is installed", JOB, "not installed"),
        (HIDDEN, JOB, "six was found on https://extra, in another version, and that index hides"),
        (REFUSED, JOB, "refuses the agent's credentials"),
        ("error: No space left on device (os error 28)", DISK, "no space"),
        ("error: Failed to parse: `a b c`", JOB, "`a b c` cannot be read"),
        (
            "error: Failed to download `ok==1`\n  cause: Hash mismatch for `ok==1`",
            JOB,
            "hash that is",
        ),
        ("error: [Errno 2] No such file or directory: 'gcc'\n", JOB, "needs `gcc`: choose a base"),
        (
            "error: command '/usr/bin/g++' failed: No such file or directory",
            JOB,
            "needs `/usr/bin/g",
        ),
        ("unable to execute 'x86_64-linux-gnu-gcc': No such file", JOB, "x86_64-linux-gnu-gcc`"),
        (CERTIFICATE, INDEX, "set `builder.ca_bundle`"),
        ("  cause: Because newpy==1.0 requires Python >=3.14 and only", JOB, "it by --runtime"),
        ("  cause: Because abi==1.0 has no wheels with a matching", JOB, "has no wheel for this"),
        ("  cause: Because b==1.0 has an invalid package format and", JOB, "is damaged: b==1.0"),
        ("error: something new happened", JOB, "something new happened"),
        ("", JOB, UNEXPLAINED),
    ],
)
def test_uv_s_words_have_a_cause(output, cause, words):
    assert explain(output, NONE)[0] is cause
    assert words in explain(output, NONE)[1]


def test_messages_hold_the_last_lines_and_no_passwords():
    output = "\n".join(f"line {number}" for number in range(50))
    output += "\nerror: Failed to fetch: https://me:hunter22@h/simple/\n"
    error = install_error(output, FOUND)
    assert "hunter22" not in str(error)
    assert "line 49" in error.message
    assert "line 10\n" not in error.message
    assert "(requirements.txt)" in error.message
    assert "(requirements" not in install_error(output, NONE).message
    assert last_lines("a\r\n\n\x1b[31mb\x1b[0m") == "a\nb"


@pytest.mark.parametrize(
    ("progress", "subject"),
    [
        (step("[internal] waiting for connection", "context deadline exceeded"), FAR),
        (step("[2/2] RUN x", "rpc error: code = Unavailable desc = EOF"), FAR),
        (read("ERROR: failed to list workers: EOF\n"), FAR),
        (read("ERROR: Cannot connect to the Docker daemon at unix:///x.\n"), ENGINE),
    ],
)
def test_the_program_that_does_not_answer_is_named(progress, subject):
    error = build_error(TITLE, OWN, progress, FAR)
    assert error.cause is Cause.BUILD_UNAVAILABLE
    assert error.message.startswith(f"{subject} does not answer (")
