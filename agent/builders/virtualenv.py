"""Virtual environments for jobs that run as processes, cached by content key.

An environment stays where it was made, since its scripts hold its path. It is valid once its
`complete` file exists, which is written last; a folder without that file is the rest of an
interrupted build, which the next one removes. Packages of the source are installed as copies:
an environment never depends on the folder of an attempt.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.builders.image.content_key import content_key, tree_digest
from agent.builders.requirements import (
    CONSTRAINTS,
    FOLDERS,
    LISTED,
    LOCAL,
    PYLOCK,
    Fetch,
    Requirements,
    fetch_requirements,
    find_requirements,
)
from agent.builders.uv import (
    indexes,
    install_error,
    no_python_version,
    uv_program,
    uv_version,
)
from agent.config.execution import BuilderConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.work import Image
from agent.ports.builder import BuildPreview, BuildRequest
from agent.ports.log import LogSink, write_line
from agent.system import cache
from agent.system.child import Command, Tail, run
from agent.system.locks import locked, locked_if_free
from agent.system.tasks import in_thread

#: Part of every key: raise it when equal inputs give another environment.
_VERSION: Final = 2
_COMPLETE: Final = "complete"
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
    uv to link files instead of copying them.
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
        fetch: Fetch | None = None,
    ) -> None:
        self._config = config
        self._root = folder / "environments"
        self._uv_cache = folder / "uv-cache"
        self._threads = threads
        self._environment = environment
        self._processes = processes
        self._fetch = fetch

    async def preview(self, request: BuildRequest) -> BuildPreview:
        """See `BuilderPort`."""
        _refuse_images(request)
        found = await in_thread(
            self._threads, lambda _: find_requirements(request.context, request.root)
        )
        return BuildPreview(requirements=found.found_in or None, warnings=found.warnings)

    async def key(self, request: BuildRequest) -> str:
        """See `BuilderPort`. Code counts only where packages are installed from it."""
        _refuse_images(request)
        requirements = await fetch_requirements(
            request, self._environment, self._threads, self._fetch
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
        requirements = await fetch_requirements(
            request, self._environment, self._threads, self._fetch
        )
        interpreter = await self._interpreter(request)
        files = requirements.files(request.root, request.root.resolve(), editable=False)
        try:
            await in_thread(self._threads, lambda _: _begin(folder, files))
        except OSError as error:
            raise JobError(Cause.DISK_FULL, f"{folder}: {error.strerror}.") from None
        venv = folder / "venv"
        await write_line(log, f"making a virtual environment of {interpreter.path}")
        make = ("venv", "--no-project", "--no-config", "--python", str(interpreter.path), str(venv))
        await self._uv(make, request, requirements, log)
        await self._install(request, requirements, folder, files, log)
        await in_thread(self._threads, lambda _: (folder / _COMPLETE).touch())

    async def _install(
        self,
        request: BuildRequest,
        requirements: Requirements,
        folder: Path,
        files: Mapping[str, str],
        log: LogSink,
    ) -> None:
        for remark in requirements.remarks:
            await write_line(log, f"warning: {remark}")
        if not requirements:
            await write_line(log, "no list of requirements: nothing to install")
            return
        await write_line(log, f"installing from {requirements.found_in}")
        install = ("pip", "install", "--no-config", "--python", str(folder / "venv/bin/python"))
        if requirements.lenient:
            await self._install_frozen(install, request, requirements, folder, log)
            return
        name = next((name for name in (LOCAL, LISTED, PYLOCK) if files[name]), None)
        packages = [*(("-r", str(folder / name)) if name else ()), *files[FOLDERS].splitlines()]
        if not packages:
            return
        exact = ("--no-deps",) if requirements.exact else ()
        constraints = ("-c", str(folder / CONSTRAINTS)) if files[CONSTRAINTS] else ()
        words = (*install, *exact, *requirements.options, *constraints, *packages)
        await self._uv(words, request, requirements, log)

    async def _install_frozen(
        self,
        install: tuple[str, ...],
        request: BuildRequest,
        requirements: Requirements,
        folder: Path,
        log: LogSink,
    ) -> None:
        """What no index has is left out and reported; it fails when nothing can be installed."""
        alone = (*install, "--no-deps")
        plain = [line.text for line in requirements.lines]
        single = [((*alone, line), line) for line in plain]
        listed = ("-r", str(folder / LISTED))
        all_plain = bool(plain) and await self._try_uv((*alone, *listed), request, log) is None
        if all_plain:
            single = []
        for variant, lines in requirements.variants:
            single += [((*alone, "--torch-backend", variant, line), line) for line in lines]
        failed = {
            line: output
            for words, line in single
            if (output := await self._try_uv(words, request, log)) is not None
        }
        if failed and not all_plain and len(failed) == len(single):
            raise install_error("\n".join(failed.values()), requirements)
        if failed:
            names = ", ".join(failed)
            await write_line(
                log, f"ERROR: Failed to install: {names}. During automated build process."
            )

    async def _try_uv(
        self, words: Iterable[str], request: BuildRequest, log: LogSink
    ) -> str | None:
        """The output of a call of uv that failed; `None` when it worked."""
        output = Tail(then=log.write)
        command = Command((str(uv_program()), *words), self._uv_environment(), request.context)
        return output.text if await run(command, output, output) != 0 else None

    async def _uv(
        self,
        arguments: Iterable[str],
        request: BuildRequest,
        requirements: Requirements,
        log: LogSink,
    ) -> None:
        output = await self._try_uv(arguments, request, log)
        if output is not None:
            raise install_error(output, requirements)

    def _uv_environment(self) -> dict[str, str]:
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
            "UV_CACHE_DIR": str(self._uv_cache),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1",
            "UV_COMPILE_BYTECODE": "1",
            "NO_COLOR": "1",
        }

    async def _interpreter(self, request: BuildRequest) -> Interpreter:
        return await find_interpreter(request.python, self._uv_environment())

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
        """See `BuilderPort`: by last use, never what a process has in its environment."""
        return await in_thread(self._threads, lambda _: self._prune(max_age, max_bytes))

    def _prune(self, max_age: float, max_bytes: int) -> int:
        freed = 0
        for entry in cache.surplus(cache.entries(self._root), max_age, max_bytes):
            with locked_if_free(self._lock(entry.folder)) as ours:
                if ours and not _in_use(entry.folder, self._processes):
                    (entry.folder / _COMPLETE).unlink(missing_ok=True)
                    shutil.rmtree(entry.folder, ignore_errors=True)
                    freed += entry.size
        return freed

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


async def find_interpreter(wanted: str | None, env: Mapping[str, str]) -> Interpreter:
    """The agent's own interpreter if it has the wanted version, else the one that uv finds.

    Nothing is downloaded: an interpreter from elsewhere is the administrator's to install.

    Raises:
        JobError: `SOURCE_INVALID` for a version that cannot be read, `BUILD_UNAVAILABLE`
            for one that is not installed.
    """
    own = ".".join(str(part) for part in sys.version_info[:3])
    if wanted is None or own == wanted or own.startswith(f"{wanted}."):
        return _interpreter(sys.executable, own)
    if not _PYTHON.fullmatch(wanted):
        raise no_python_version(wanted)
    output, errors = Tail(), Tail()
    argv = (str(uv_program()), "python", "find", "--no-project", "--no-config", "--", wanted)
    if await run(Command(argv, env), output, errors) != 0:
        raise JobError(
            Cause.BUILD_UNAVAILABLE,
            f"Python {wanted} is not installed on the agent's machine; the agent runs {own}.",
            hint=f"Install Python {wanted} there, or submit with another `--runtime`.",
        )
    return _interpreter(output.text.strip(), wanted)


def _interpreter(path: str, version: str) -> Interpreter:
    return Interpreter(Path(path), f"{version} {os.path.realpath(path)}")


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
