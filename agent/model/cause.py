"""Cause codes: a closed set of words, which scripts may rely on.

Every outcome and every waiting state carries one. ``docs/causes.md`` lists them for users
and is checked against this module by a test. SCHEDULE_NO_NODE to SCHEDULE_INIT are why a started
job is pending on a backend that queues; an item that waits on its own queue has one of those
before them.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Cause(StrEnum):
    """Why an item ended, or why it waits."""

    SOURCE_UNREACHABLE = "SOURCE_UNREACHABLE"
    SOURCE_AUTH = "SOURCE_AUTH"
    SOURCE_NOT_FOUND = "SOURCE_NOT_FOUND"
    SOURCE_INVALID = "SOURCE_INVALID"
    BUILD_REQUIREMENTS = "BUILD_REQUIREMENTS"
    BUILD_DOCKERFILE = "BUILD_DOCKERFILE"
    BUILD_TIMEOUT = "BUILD_TIMEOUT"
    BUILD_OUT_OF_MEMORY = "BUILD_OUT_OF_MEMORY"
    BUILD_PUSH = "BUILD_PUSH"
    BUILD_UNAVAILABLE = "BUILD_UNAVAILABLE"
    BUILD_FAILED = "BUILD_FAILED"
    IMAGE_NOT_FOUND = "IMAGE_NOT_FOUND"
    IMAGE_AUTH = "IMAGE_AUTH"
    IMAGE_PLATFORM = "IMAGE_PLATFORM"
    IMAGE_UNAVAILABLE = "IMAGE_UNAVAILABLE"
    SCHEDULE_NO_AGENT = "SCHEDULE_NO_AGENT"
    SCHEDULE_PAUSED = "SCHEDULE_PAUSED"
    SCHEDULE_BUSY = "SCHEDULE_BUSY"
    SCHEDULE_CAPACITY = "SCHEDULE_CAPACITY"
    SCHEDULE_DISK = "SCHEDULE_DISK"
    SCHEDULE_ENGINE = "SCHEDULE_ENGINE"
    SCHEDULE_BUILDER = "SCHEDULE_BUILDER"
    SCHEDULE_BACKOFF = "SCHEDULE_BACKOFF"
    SCHEDULE_WAITING = "SCHEDULE_WAITING"
    SCHEDULE_NO_NODE = "SCHEDULE_NO_NODE"
    SCHEDULE_QUOTA = "SCHEDULE_QUOTA"
    SCHEDULE_SUSPENDED = "SCHEDULE_SUSPENDED"
    SCHEDULE_SETUP = "SCHEDULE_SETUP"
    SCHEDULE_VOLUME = "SCHEDULE_VOLUME"
    SCHEDULE_IMAGE = "SCHEDULE_IMAGE"
    SCHEDULE_INIT = "SCHEDULE_INIT"
    SCHEDULE_TIMEOUT = "SCHEDULE_TIMEOUT"
    START_ENTRYPOINT = "START_ENTRYPOINT"
    START_REFERENCE = "START_REFERENCE"
    START_REFUSED = "START_REFUSED"
    START_INIT = "START_INIT"
    START_CODE = "START_CODE"
    START_SERVICE = "START_SERVICE"
    START_FAILED = "START_FAILED"
    RUN_EXIT_CODE = "RUN_EXIT_CODE"
    RUN_OUT_OF_MEMORY = "RUN_OUT_OF_MEMORY"
    RUN_DEADLINE = "RUN_DEADLINE"
    RUN_SIGNAL = "RUN_SIGNAL"
    RUN_EVICTED = "RUN_EVICTED"
    RUN_IN_PROGRESS = "RUN_IN_PROGRESS"
    SUCCEEDED = "SUCCEEDED"
    STOPPED_BY_USER = "STOPPED_BY_USER"
    STOPPED_BY_AGENT = "STOPPED_BY_AGENT"
    PREEMPTED = "PREEMPTED"
    LOST_AGENT = "LOST_AGENT"
    LOST_WORKLOAD = "LOST_WORKLOAD"
    LOST_ENGINE = "LOST_ENGINE"
    LOST_NODE = "LOST_NODE"
    QUARANTINED = "QUARANTINED"
    POLICY_RESOURCE = "POLICY_RESOURCE"
    POLICY_SOURCE = "POLICY_SOURCE"
    POLICY_SPEC = "POLICY_SPEC"
    POLICY_RIGHTS = "POLICY_RIGHTS"
    DISK_FULL = "DISK_FULL"
    INTERNAL = "INTERNAL"


#: Why an item waits: no cause of an outcome, but for SCHEDULE_TIMEOUT and a start that a quota
#: refused.
WAITING: Final = frozenset(cause for cause in Cause if cause.startswith("SCHEDULE_"))


@dataclass(frozen=True, slots=True)
class Meaning:
    """How a cause is explained to users: what it means, what to do."""

    summary: str
    remedy: str
    #: True when the job's own code or description is not to blame: `retries` may apply.
    infrastructure: bool = False


MEANINGS: Final[dict[Cause, Meaning]] = {
    Cause.SOURCE_UNREACHABLE: Meaning(
        "The server that holds the source did not answer.",
        "Check the address and the network of the agent's machine, then retry the item.",
        infrastructure=True,
    ),
    Cause.SOURCE_AUTH: Meaning(
        "The server that holds the source refused the agent's credentials.",
        "Give the agent a credential helper, a key, or `sources.git.credentials`.",
    ),
    Cause.SOURCE_NOT_FOUND: Meaning(
        "The repository, reference, commit or file does not exist in the source.",
        "Check the spelling; for a commit, check that it has been pushed.",
    ),
    Cause.SOURCE_INVALID: Meaning(
        "The source cannot be used as it is.",
        "Fix what the message names and submit again.",
    ),
    Cause.BUILD_REQUIREMENTS: Meaning(
        "A dependency could not be installed.",
        "Fix the requirement that the message names; the build log has the details.",
    ),
    Cause.BUILD_DOCKERFILE: Meaning(
        "A step of the Dockerfile failed.",
        "See the step and its last lines in the message; the build log has all of it.",
    ),
    Cause.BUILD_TIMEOUT: Meaning(
        "The build took longer than the agent allows.",
        "Raise `builder.timeout` on the agent, or make the build smaller.",
    ),
    Cause.BUILD_OUT_OF_MEMORY: Meaning(
        "A build step was killed, most likely because memory was short.",
        "Let the step use less (fewer parallel compilers), or give the builder more: the memory "
        "limit of the build pod, of the buildkitd, or of the machine.",
    ),
    Cause.BUILD_PUSH: Meaning(
        "The image could not be pushed to its registry.",
        "Give the agent's user a login that may push to `builder.destination`, and create the "
        "repository where the registry does not create it by itself.",
    ),
    Cause.BUILD_UNAVAILABLE: Meaning(
        "The agent has no working builder for this job.",
        "Start the container engine on the agent's machine, or submit a ready image.",
        infrastructure=True,
    ),
    Cause.BUILD_FAILED: Meaning(
        "The image could not be built.",
        "Read the build log: `launch item logs ID --channel setup`.",
    ),
    Cause.IMAGE_NOT_FOUND: Meaning(
        "The image does not exist in its registry.",
        "Check name and tag; a private image looks the same without a login.",
    ),
    Cause.IMAGE_AUTH: Meaning(
        "The registry requires a login for this image.",
        "Give the agent or the cluster a login for that registry: `docker login` on the agent's "
        "machine, `imagePullSecrets` in a Kubernetes manifest.",
    ),
    Cause.IMAGE_PLATFORM: Meaning(
        "The image is built for another processor architecture.",
        "Build the image for the platform that the message names.",
    ),
    Cause.IMAGE_UNAVAILABLE: Meaning(
        "The image could not be pulled.",
        "Check that the machine that runs the job reaches the registry, then retry the item.",
        infrastructure=True,
    ),
    Cause.SCHEDULE_NO_AGENT: Meaning(
        "No live agent serves this queue.",
        "Start one: `launch-agent --queue QUEUE`. An agent that runs already serves it, too, when "
        "it is stopped and started with a further `--queue QUEUE`.",
    ),
    Cause.SCHEDULE_PAUSED: Meaning(
        "The queue is paused.", "Resume it: `launch queue resume QUEUE`."
    ),
    Cause.SCHEDULE_BUSY: Meaning(
        "Every agent of this queue is busy.",
        "Wait, raise `max_jobs`, or start another agent.",
    ),
    Cause.SCHEDULE_CAPACITY: Meaning(
        "No agent of this queue offers what the job asks for.",
        "Ask for less, or start an agent that offers it; the details say what is missing.",
    ),
    Cause.SCHEDULE_DISK: Meaning(
        "The agents that could take the job have too little free disk.",
        "Free space on the agent's machine, or lower `min_free_disk`.",
    ),
    Cause.SCHEDULE_ENGINE: Meaning(
        "The engine that would run the job does not answer.",
        "Start it on the agent's machine; the agent notices and continues.",
    ),
    Cause.SCHEDULE_BUILDER: Meaning(
        "The builder that would make the job's image, or its registry, does not answer.",
        "Start it, or correct `builder` in the agent's configuration; the agent continues then.",
    ),
    Cause.SCHEDULE_BACKOFF: Meaning(
        "The item waits a little before it is tried again.",
        "Nothing needs to be done; `launch item show ID` shows how the last try ended.",
    ),
    Cause.SCHEDULE_WAITING: Meaning("The item waits for its turn.", "Nothing needs to be done."),
    Cause.SCHEDULE_NO_NODE: Meaning(
        "The job was started, and no node of the cluster takes it yet.",
        "Wait, ask for less or for other nodes, or add nodes.",
    ),
    Cause.SCHEDULE_QUOTA: Meaning(
        "A quota of the cluster is used up.",
        "Wait for other jobs to end, or ask the cluster's administrator for more.",
        infrastructure=True,
    ),
    Cause.SCHEDULE_SUSPENDED: Meaning(
        "The job was started, and the cluster's own queue or somebody has suspended it.",
        "Nothing needs to be done if a queue did: it runs when it is admitted.",
    ),
    Cause.SCHEDULE_SETUP: Meaning(
        "The job was started, and its place in the cluster is being set up.",
        "Nothing needs to be done, unless the message names an error of the cluster.",
    ),
    Cause.SCHEDULE_VOLUME: Meaning(
        "The job was started, and a volume of it is not ready.",
        "Check the volume that the message names, and its storage class.",
    ),
    Cause.SCHEDULE_IMAGE: Meaning(
        "The job was started, and its image is being pulled.", "Nothing needs to be done."
    ),
    Cause.SCHEDULE_INIT: Meaning(
        "The job was started, and its init containers run before it.",
        "Nothing needs to be done.",
    ),
    Cause.SCHEDULE_TIMEOUT: Meaning(
        "The backend did not run the job within the time limit for what it waited for.",
        "See in the message what that was; raise `pending_timeout` on the agent.",
        infrastructure=True,
    ),
    Cause.START_ENTRYPOINT: Meaning(
        "The command does not exist in the image, or cannot be executed.",
        "Check `--entry-point` against the files in the image.",
    ),
    Cause.START_REFERENCE: Meaning(
        "Something that the job's resource arguments name does not exist where it runs.",
        "Create the secret, volume or account that the message names, or correct its name.",
    ),
    Cause.START_REFUSED: Meaning(
        "The cluster refuses what the job asks for.",
        "Change the resource arguments as the message says, or ask the cluster's administrator.",
    ),
    Cause.START_INIT: Meaning(
        "An init container failed, so that the job itself did not run.",
        "Read the log of the init container that the message names.",
    ),
    Cause.START_CODE: Meaning(
        "The job's code could not be fetched into its pod, so that the job itself did not run.",
        "Check that pods reach the control plane, and what the message names; retry the item.",
        infrastructure=True,
    ),
    Cause.START_SERVICE: Meaning(
        "A side service of the job did not become ready, so that the job itself did not run.",
        "Look at its pods as the message says; `kubernetes.wait_timeout` is the time it has.",
    ),
    Cause.START_FAILED: Meaning(
        "The container or process could not be started.",
        "See the message of the engine; `launch explain ID` shows what was asked of it.",
        infrastructure=True,
    ),
    Cause.RUN_EXIT_CODE: Meaning(
        "The job ended with an exit code other than 0.",
        "Read the job's log: `launch item logs ID`.",
    ),
    Cause.RUN_OUT_OF_MEMORY: Meaning(
        "The job used more memory than it was given and was killed.",
        "Ask for more memory, or use less.",
    ),
    Cause.RUN_DEADLINE: Meaning(
        "The job ran longer than its timeout and was stopped.",
        "Raise `--timeout`, or the limit that the message names.",
    ),
    Cause.RUN_SIGNAL: Meaning(
        "The job was ended by a signal that the agent did not send.",
        "See who else manages processes on that machine, then read the job's log.",
    ),
    Cause.RUN_EVICTED: Meaning(
        "The node ran short of memory or disk and evicted the job.",
        "Ask for what the job uses, so that the node reserves it; retry the item.",
        infrastructure=True,
    ),
    Cause.RUN_IN_PROGRESS: Meaning("The job is under way.", "Nothing needs to be done."),
    Cause.SUCCEEDED: Meaning("The job ended with exit code 0.", "Nothing needs to be done."),
    Cause.STOPPED_BY_USER: Meaning(
        "Somebody stopped the item.", "Retry it if that was a mistake: `launch item retry ID`."
    ),
    Cause.STOPPED_BY_AGENT: Meaning(
        "The agent was asked to stop its jobs and shut down.",
        "Retry the item: `launch item retry ID`.",
        infrastructure=True,
    ),
    Cause.PREEMPTED: Meaning(
        "The machine was taken away from the job.",
        "Nothing needs to be done up to five times: a new attempt begins; then retry the item.",
        infrastructure=True,
    ),
    Cause.LOST_AGENT: Meaning(
        "The agent stopped sending heartbeats after the job was permitted to start.",
        "Look whether the job still runs on that machine; submit with `--on-lost retry` "
        "if it may run again.",
        infrastructure=True,
    ),
    Cause.LOST_WORKLOAD: Meaning(
        "The container or process of the job vanished without an exit code.",
        "See who else manages that machine, then retry the item.",
        infrastructure=True,
    ),
    Cause.LOST_ENGINE: Meaning(
        "The container engine became unreachable or was restarted while the job ran, so "
        "nobody knows how the job ended.",
        "Start the engine again, then retry the item.",
        infrastructure=True,
    ),
    Cause.LOST_NODE: Meaning(
        "The node under the job stopped answering.",
        "Check the node, then retry the item.",
        infrastructure=True,
    ),
    Cause.QUARANTINED: Meaning(
        "Three times in a row, an agent died or stopped sending heartbeats while it prepared "
        "this item.",
        "See what the agents' logs say about it before you retry it.",
    ),
    Cause.POLICY_RESOURCE: Meaning(
        "The job asks for a resource argument that the administrator does not allow.",
        "Leave it out, or ask the administrator to allow it.",
    ),
    Cause.POLICY_SOURCE: Meaning(
        "The source is of a kind or at an address that the agent does not allow.",
        "Use another source, or ask the administrator to allow this one.",
    ),
    Cause.POLICY_SPEC: Meaning(
        "The description of the job is not valid.", "Fix what the message names and submit again."
    ),
    Cause.POLICY_RIGHTS: Meaning(
        "The user who submitted the job no longer has the rights to run it.",
        "Ask an administrator of the entity that the message names, or let somebody else submit.",
    ),
    Cause.DISK_FULL: Meaning(
        "The agent's disk is full.",
        "Free space on the agent's machine, then retry the item.",
        infrastructure=True,
    ),
    Cause.INTERNAL: Meaning(
        "The launcher itself failed.",
        "Retry the item; if it happens again, report it with the agent's log.",
        infrastructure=True,
    ),
}


def is_infrastructure(cause: Cause) -> bool:
    """Whether `retries` may open a new attempt: the cause is not the job's own."""
    return MEANINGS[cause].infrastructure
