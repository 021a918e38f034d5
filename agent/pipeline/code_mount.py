"""W&B's way without a build: a job's code is mounted into its base image by the backend.

Taken only where a build would add nothing but the code, so that a job does the same on every
resource; without a builder also for code that names packages, which the base image has to bring.
"""

from dataclasses import replace
from typing import Final

from agent.model.errors import PolicyError
from agent.model.work import MountedCode, Resolved
from agent.pipeline.build import build_request
from agent.pipeline.dependencies import Backend
from agent.ports.log import LogSink, write_line

#: Images that are built have a `python`; others may have `python3` only.
_PYTHON: Final = ("sh", "-c", 'command -v python >/dev/null && exec python "$@"; exec python3 "$@"')


async def mount_code(resolved: Resolved, backend: Backend, log: LogSink) -> Resolved:
    """The job without a build, if it can be run so; otherwise as it is given.

    The caller has not changed the files of the source.

    Raises:
        JobError: `SOURCE_INVALID`, as `BuilderPort.preview`.
    """
    base, tree = resolved.claim.spec.build.base_image, resolved.tree
    possible = backend.mounts_code and base and resolved.command and not resolved.dockerfile
    if not possible or tree is None or tree.code is None:
        return resolved
    request, packages = build_request(resolved), "the job needs none"
    if backend.builder is not None:
        try:
            built = await backend.builder.preview(request)
        except PolicyError:  # it builds nothing
            packages = "this agent builds no images, so that the base image has to bring them"
        else:
            if built.requirements or built.warnings:
                return resolved
    await write_line(log, f"nothing to build: the code is mounted into {base}")
    await write_line(log, f"no packages are installed: {packages}")
    command = resolved.command
    if command[0] == "python":
        command = (*_PYTHON, *command)
    mounted = MountedCode(tree.code, resolved.build_context, request.user_id)
    return replace(resolved, image=base, command=command, mounted_code=mounted)
