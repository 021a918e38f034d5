"""Virtual environments for jobs that run as processes, cached by content key.

An environment stays where it was made, since its scripts hold its path. It is valid once its
`complete` file exists, which is written last; a folder without that file is the rest of an
interrupted build, which the next one removes. Packages of the source are installed as copies:
an environment never depends on the folder of an attempt.
"""

import hashlib
import os
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.builders.image.content_key import content_key, tree_digest
from agent.builders.installation import Installation
from agent.builders.requirements import (
    fetch_requirements,
    find_requirements,
)
from agent.builders.uv import indexes, no_python_version, uv_program, uv_version
from agent.config.execution import BuilderConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.work import Image
from agent.ports.builder import BuildPreview, BuildRequest
from agent.ports.log import LogSink
from agent.ports.url import UrlPort
from agent.system import cache
from agent.system.child import Command, Tail, run
from agent.system.job_users import JobUser, JobUsers, kill_all, take_over
from agent.system.locks import locked, locked_if_free
from agent.system.tasks import in_thread

#: Part of every key: raise it when equal inputs give another environment.
_VERSION: Final = 3
_COMPLETE: Final = "complete"
#: uv's cache, in the folder of its entity.
_CACHE: Final = "uv"
#: Home and temporary files of the user that installs.
_SCRATCH: Final = "scratch"
_NAME_LENGTH: Final = 32
_PYTHON: Final = re.compile(r"\d+(\.\d+){1,2}")
#: The source's folder in a key, which must not depend on the attempt.
_SOURCE: Final = Path("/source")
_INHERITED: Final = ("PATH", "HOME", "USER", "TMPDIR", "LANG", "SSL_CERT_DIR", "NETRC", "CC", "CXX")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that is installed on this machine."""

    path: Path
    #: What decides whether two environments are alike.
    identity: str


class VirtualenvBuilder:
    """`BuilderPort` for the process runner.

    `folder` holds environments and uv's own cache; both must lie on one file system for
    uv to link files instead of copying them. `users` are those that jobs run as: packages are
    installed as one of them, since their build scripts are code of the job.
    """

    name = "virtualenv"

    def __init__(
        self,
        config: BuilderConfig,
        folder: Path,
        *,
        threads: Executor,
        environment: Mapping[str, str],
        processes: Path = Path("/proc"),
        urls: UrlPort | None = None,
        users: JobUsers | None = None,
    ) -> None:
        self._config = config
        self._root = folder / "environments"
        self._uv_cache = folder / "uv-cache"
        self._users_uv = folder / "bin" / f"uv-{uv_version()}"
        self._threads = threads
        self._environment = environment
        self._processes = processes
        self._urls = urls
        self._users = users

    async def preview(self, request: BuildRequest) -> BuildPreview:
        """See `BuilderPort`."""
        _refuse_images(request)
        found = await in_thread(
            self._threads,
            lambda _: find_requirements(request.context, request.root, request.command),
        )
        return BuildPreview(requirements=found.found_in or None, warnings=found.warnings)

    async def key(self, request: BuildRequest) -> str:
        """See `BuilderPort`. Code counts only where packages are installed from it."""
        _refuse_images(request)
        requirements = await fetch_requirements(
            request, self._environment, self._threads, self._urls
        )
        interpreter = await self._interpreter(request)
        found = indexes(self._config, self._environment)
        code = ""
        if requirements.local:
            code = await in_thread(
                self._threads, lambda stop: tree_digest(request.root, everything=False, stop=stop)
            )
        return content_key(
            {
                "version": _VERSION,
                "entity": request.entity,
                "uv": uv_version(),
                "python": interpreter.identity,
                "files": sorted(requirements.files(request.root, _SOURCE).items()),
                "mode": requirements.mode,
                "options": requirements.options,
                "variants": requirements.variants,
                "code": code,
                "indexes": (found.index_url, found.extra_index_urls),
            }
        )

    async def find(self, key: str) -> Image | None:
        """See `BuilderPort`. Finding renews the environment's last use."""
        return await in_thread(self._threads, lambda _: self._found(key, reused=True))

    async def build(self, request: BuildRequest, key: str, log: LogSink) -> Image:
        """See `BuilderPort`. Waits for another agent's build of the same key."""
        folder = self._folder(key)
        async with locked(self._lock(folder)):
            found = await self.find(key)
            if found is not None:
                return found
            try:
                await self._make(request, folder, log)
            except BaseException:
                await in_thread(self._threads, lambda _: shutil.rmtree(folder, ignore_errors=True))
                raise
        image = await in_thread(self._threads, lambda _: self._found(key, reused=False))
        if image is None:
            raise JobError(Cause.BUILD_FAILED, f"The environment {folder} vanished.")
        return image

    async def _make(self, request: BuildRequest, folder: Path, log: LogSink) -> None:
        await in_thread(self._threads, lambda _: _open_cache(self._gate(request)))
        if self._users is None:
            await self._install(request, folder, log, None)
        else:
            await self._make_as_user(request, folder, log, self._users)
        await in_thread(self._threads, lambda _: (folder / _COMPLETE).touch())

    async def _make_as_user(
        self, request: BuildRequest, folder: Path, log: LogSink, users: JobUsers
    ) -> None:
        """Install as a job's user; afterwards nobody but the agent can change the result.

        1. Packages are installed as user 7, who owns the cache and the source meanwhile. 2. The
        next job of another entity gets user 7. Hence both are in folders that are closed then.
        """
        gate = self._gate(request)
        async with locked(self._lock(gate)):
            owner = await in_thread(self._threads, lambda _: (gate / _CACHE).stat().st_uid)
            async with users.lent(owner) as user:
                try:
                    await self._install(request, folder, log, user)
                    if users.single is None:
                        await in_thread(self._threads, lambda _: kill_all(user))
                    await in_thread(self._threads, lambda _: _take_over(folder, user))
                finally:
                    await in_thread(self._threads, lambda _: _close(gate, request.root))

    async def _install(
        self, request: BuildRequest, folder: Path, log: LogSink, user: JobUser | None
    ) -> None:
        requirements = await fetch_requirements(
            request, self._environment, self._threads, self._urls
        )
        interpreter = await self._interpreter(request)
        files = requirements.files(request.root, request.root.resolve(), editable=False)
        gate, uv = self._gate(request), uv_program()
        try:
            await in_thread(self._threads, lambda _: _begin(folder, files))
            if user is not None:
                uv = self._users_uv
                await in_thread(
                    self._threads, lambda _: _hand_over(user, folder, gate, request.root)
                )
        except OSError as error:
            raise JobError(Cause.DISK_FULL, f"{folder}: {error.strerror}.") from None
        variables = self._variables() if user is None else self._users_variables(user, folder)
        variables |= {"UV_CACHE_DIR": str(gate / _CACHE)}
        context = request.context
        async with self._proxy() as proxy:
            variables |= proxy
            made = Installation(uv, variables, user, context, requirements, files, folder, log)
            await made.run(interpreter.path)

    def _proxy(self) -> AbstractAsyncContextManager[Mapping[str, str]]:
        """Uv asks whatever address an index or a redirect names; the proxy refuses some.

        Not where a proxy is configured, which then decides.
        """
        if self._urls is None or indexes(self._config, self._environment).proxies:
            return nullcontext({})
        return self._urls.proxy()

    def _variables(self) -> dict[str, str]:
        """Environment of uv where it runs as the agent's user."""
        given = self._environment
        kept = {name: given[name] for name in _INHERITED if name in given}
        uvs_own = {name: value for name, value in given.items() if name.startswith("UV_")}
        found = indexes(self._config, given)
        optional = {
            "UV_DEFAULT_INDEX": found.index_url,
            "UV_EXTRA_INDEX_URL": found.extra_index_urls,
            "SSL_CERT_FILE": str(found.ca_bundle) if found.ca_bundle else None,
        }
        return {
            **kept,
            **uvs_own,
            **{name: value for name, value in optional.items() if value},
            **found.proxies,
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1",
            "UV_COMPILE_BYTECODE": "1",
            "NO_COLOR": "1",
        }

    def _users_variables(self, user: JobUser, folder: Path) -> dict[str, str]:
        """The same for a job's user: nothing of the agent's own, apart from its indexes."""
        closed = ("NETRC", "UV_PUBLISH_", "UV_KEYRING_")
        kept = {
            name: value for name, value in self._variables().items() if not name.startswith(closed)
        }
        scratch = folder / _SCRATCH
        own = {**user.environment(scratch), "HOME": str(scratch), "TMPDIR": str(scratch)}
        # Links would make files of the environment and of the cache the same.
        return {**kept, **own, "UV_LINK_MODE": "copy"}

    async def _interpreter(self, request: BuildRequest) -> Interpreter:
        if self._users is None:
            return await find_interpreter(request.python, self._variables(), uv_program(), None)
        uv, user = self._users_uv, self._users.sample
        await in_thread(self._threads, lambda _: _copy_for_users(uv))
        variables = self._users_variables(user, Path("/nonexistent"))
        variables |= {"TMPDIR": tempfile.gettempdir()}
        return await find_interpreter(request.python, variables, uv, user)

    def _found(self, key: str, *, reused: bool) -> Image | None:
        folder = self._folder(key)
        if not (folder / _COMPLETE).exists():
            return None
        cache.mark_used(folder)
        venv = folder / "venv"
        name = f"environment {folder.name[:12]}"
        return Image(str(venv), "environment", reused, name, environment=venv)

    async def check(self) -> None:
        """See `BuilderPort`: it needs this machine only."""

    async def prune(self, max_age: float, max_bytes: int) -> int:
        """See `BuilderPort`: also uv's caches; never what a process has in its environment."""
        return await in_thread(self._threads, lambda _: self._prune(max_age, max_bytes))

    def _prune(self, max_age: float, max_bytes: int) -> int:
        freed = 0
        found = sorted(
            (*cache.entries(self._root), *cache.entries(self._uv_cache)),
            key=lambda entry: -entry.idle,
        )
        for entry in cache.surplus(found, max_age, max_bytes):
            with locked_if_free(self._lock(entry.folder)) as ours:
                if ours and not _in_use(entry.folder, self._processes):
                    (entry.folder / _COMPLETE).unlink(missing_ok=True)
                    shutil.rmtree(entry.folder, ignore_errors=True)
                    freed += entry.size
        return freed

    def _gate(self, request: BuildRequest) -> Path:
        """The folder that opens and closes the cache of the request's entity."""
        return self._uv_cache / hashlib.sha256(request.entity.encode()).hexdigest()[:_NAME_LENGTH]

    def _folder(self, key: str) -> Path:
        return self._root / key[:_NAME_LENGTH]

    def _lock(self, folder: Path) -> Path:
        # In a folder for the agent alone; jobs of another user must reach `_root`.
        return self._root.with_name("locks") / f"{folder.name}.lock"


def _refuse_images(request: BuildRequest) -> None:
    wants = "a Dockerfile" if request.dockerfile else "a base image" if request.base_image else None
    if wants is not None:
        raise JobError(
            Cause.BUILD_UNAVAILABLE,
            f"The job has {wants}, and this agent builds virtual environments only.",
            hint="Send it to an agent with a container engine.",
        )


async def find_interpreter(
    wanted: str | None, env: Mapping[str, str], uv: Path, user: JobUser | None
) -> Interpreter:
    """The agent's own interpreter if it has the wanted version, else the one that `uv` finds.

    `user` must be able to run it. Nothing is downloaded: an interpreter from elsewhere is the
    administrator's to install.

    Raises:
        JobError: `SOURCE_INVALID` for a version that cannot be read, `BUILD_UNAVAILABLE`
            for one that is not installed.
    """
    own = ".".join(str(part) for part in sys.version_info[:3])
    if (wanted is None or own == wanted or own.startswith(f"{wanted}.")) and (
        user is None or not _closed(user, sys.executable)
    ):
        return _interpreter(sys.executable, own)
    if wanted is None:
        wanted = own.rpartition(".")[0]
    if not _PYTHON.fullmatch(wanted):
        raise no_python_version(wanted)
    output, errors = Tail(), Tail()
    argv = (str(uv), "python", "find", "--no-project", "--no-config", "--no-cache", "--", wanted)
    if await run(Command(argv, env, Path("/"), user=user), output, errors) != 0:
        reachable = "" if user is None else f" where the user '{user.name}' can run it"
        raise JobError(
            Cause.BUILD_UNAVAILABLE,
            f"Python {wanted} is not installed on the agent's machine{reachable}; the agent runs "
            f"{own}.",
            hint=f"Install Python {wanted} there, or submit with another `--runtime`.",
        )
    return _interpreter(output.text.strip(), wanted)


def _closed(user: JobUser, program: str) -> bool:
    """Whether a folder that leads to a program, or to what it is a link to, is closed."""
    paths = (Path(program), Path(os.path.realpath(program)))
    return any(user.closed_parent(path) is not None for path in paths)


def _interpreter(path: str, version: str) -> Interpreter:
    return Interpreter(Path(path), f"{version} {os.path.realpath(path)}")


def _open_cache(gate: Path) -> None:
    (gate / _CACHE).mkdir(parents=True, exist_ok=True)
    cache.mark_used(gate)


def _hand_over(user: JobUser, folder: Path, gate: Path, source: Path) -> None:
    """Give a user what it installs with; the gate opens when the cache is the user's."""
    for parent in (folder.parent, gate.parent):
        parent.chmod(0o711)  # to pass through, not to list
    (folder / _SCRATCH).mkdir()
    user.hand_over(folder)
    user.hand_over(source)
    gate.chmod(0o700)
    if (gate / _CACHE).stat().st_uid != user.uid:
        user.give_ownership(gate / _CACHE)
    gate.chmod(0o711)


def _close(gate: Path, source: Path) -> None:
    gate.chmod(0o700)
    os.chown(source, os.geteuid(), os.getegid())


def _take_over(folder: Path, user: JobUser) -> None:
    try:
        shutil.rmtree(folder / _SCRATCH, ignore_errors=True)
        take_over(folder, user)
    except PermissionError as error:
        reason = f"'{error.filename}': {error.strerror}"
        raise JobError(Cause.BUILD_FAILED, f"The environment is refused: {reason}.") from None


def _copy_for_users(copy: Path) -> None:
    """Put uv where every user can run it; its package may be in a folder of the agent's own."""
    if copy.exists():
        return
    for folder in (copy.parent.parent, copy.parent):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)
    draft = copy.with_name(f"{copy.name}.{uuid.uuid4().hex}")
    shutil.copyfile(uv_program(), draft)
    draft.chmod(0o755)
    draft.replace(copy)


def _begin(folder: Path, files: Mapping[str, str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cache.mark_used(folder)
    for name, text in files.items():
        if text:
            (folder / name).write_text(text, encoding="utf-8")


def _in_use(folder: Path, processes: Path) -> bool:
    """Whether a process has the folder in its environment: on its path, or by name.

    This needs no cooperation, and holds for jobs that outlived an agent.
    """
    wanted = os.fsencode(folder)
    return any(wanted in environ for environ in _environments(processes))


def _environments(processes: Path) -> Iterator[bytes]:
    for process in processes.glob("[0-9]*/environ"):
        # Ended meanwhile, or another user's, which then is no job of ours.
        with suppress(OSError):
            yield process.read_bytes()
