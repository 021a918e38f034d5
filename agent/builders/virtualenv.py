"""Virtual environments for jobs that run as processes, cached by what decides them.

An environment stays where it was made, since its scripts hold its path. It counts from the
moment its `complete` file appears, as the last step; a folder without that file is the rest
of a build that was cut, and the next one starts by removing it.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.builders.context import check_paths, content_key, tree_digest
from agent.builders.pythons import Interpreter, find_interpreter
from agent.builders.requirements import Requirements, find_requirements
from agent.builders.uv import indexes, install_error, uv_program, uv_version
from agent.config.execution import BuilderConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.work import Image
from agent.ports.builder import BuildPreview, BuildRequest
from agent.ports.log import LogSink, say
from agent.system import cache
from agent.system.child import Command, Tail, run
from agent.system.locks import locked, locked_if_free
from agent.system.threads import Stop, in_thread

#: Part of every key: raise it when equal inputs give another environment.
_VERSION: Final = 1
_COMPLETE: Final = "complete"
_NAME_LENGTH: Final = 32
_INHERITED: Final = ("PATH", "HOME", "USER", "TMPDIR", "LANG", "SSL_CERT_DIR", "NETRC", "CC", "CXX")


@dataclass(frozen=True, slots=True)
class _Inputs:
    requirements: Requirements | None
    #: Of the code, where packages are installed from it; else empty.
    code: str


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
    ) -> None:
        self._config = config
        self._root = folder / "environments"
        self._uv_cache = folder / "uv-cache"
        self._threads = threads
        self._environment = environment
        self._processes = processes

    async def preview(self, request: BuildRequest) -> BuildPreview:
        """See `BuilderPort`."""
        _refuse_images(request)
        found = (await self._inputs(request)).requirements
        return BuildPreview(requirements=None if found is None else found.found_in)

    async def key(self, request: BuildRequest) -> str:
        """See `BuilderPort`. Code counts only where packages are installed from it."""
        _refuse_images(request)
        inputs = await self._inputs(request)
        interpreter = await self._interpreter(request)
        found = indexes(self._config, self._environment)
        requirements = inputs.requirements
        return content_key(
            {
                "version": _VERSION,
                "uv": uv_version(),
                "python": interpreter.identity,
                "packages": requirements.packages if requirements else "",
                "mode": requirements.mode if requirements else "",
                "variants": requirements.variants if requirements else (),
                "constraints": requirements.constraints if requirements else "",
                "local": [str(each) for each in _local_arguments(request.root, requirements)],
                "code": inputs.code,
                "indexes": (found.index_url, found.extra_index_urls),
            }
        )

    async def find(self, key: str) -> Image | None:
        """See `BuilderPort`. Finding renews the environment's last use."""
        return await in_thread(self._threads, lambda _: self._found(key, reused=True))

    async def build(self, request: BuildRequest, key: str, log: LogSink) -> Image:
        """See `BuilderPort`. Another agent's build of the same key is waited for."""
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
        inputs = await self._inputs(request)
        interpreter = await self._interpreter(request)
        try:
            await in_thread(self._threads, lambda _: _begin(folder, inputs.requirements))
        except OSError as error:
            raise JobError(Cause.DISK_FULL, f"{folder}: {error.strerror}.") from None
        venv = folder / "venv"
        await say(log, f"making a virtual environment of {interpreter.path}")
        await self._uv(
            ("venv", "--no-project", "--no-config", "--python", str(interpreter.path), str(venv)),
            request, None, log,
        )  # fmt: skip
        await self._install(request, inputs.requirements, folder, log)
        await in_thread(self._threads, lambda _: (folder / _COMPLETE).touch())

    async def _install(
        self, request: BuildRequest, requirements: Requirements | None, folder: Path, log: LogSink
    ) -> None:
        if requirements is None:
            await say(log, "no list of requirements: nothing to install")
            return
        await say(log, f"installing from {requirements.found_in}")
        install = ("pip", "install", "--no-config", "--python", str(folder / "venv/bin/python"))
        if requirements.lenient:
            await self._frozen(install, request, requirements, folder, log)
            return
        texts = {
            "-c": (folder / "constraints.txt", requirements.constraints),
            "-r": (folder / requirements.file_name, requirements.packages),
        }
        listed = [
            word for flag, (file, text) in texts.items() if text for word in (flag, str(file))
        ]
        if requirements.exact and listed:
            await self._uv((*install, "--no-deps", *listed), request, requirements, log)
            listed = []
        local = tuple(
            f"{request.root.resolve() / path}{extras}"
            for path, extras in _local_arguments(request.root, requirements)
        )
        if listed or local:
            await self._uv((*install, *listed, *local), request, requirements, log)

    async def _frozen(
        self,
        install: tuple[str, ...],
        request: BuildRequest,
        requirements: Requirements,
        folder: Path,
        log: LogSink,
    ) -> None:
        """What no index has is left out and told; nothing at all is a failure."""
        alone = (*install, "--no-deps")
        plain = requirements.packages.splitlines()
        single = [((*alone, line), line) for line in plain]
        listed = ("-r", str(folder / requirements.file_name))
        together = bool(plain) and await self._tried((*alone, *listed), request, log) is None
        if together:
            single = []
        for variant, lines in requirements.variants:
            single += [((*alone, "--torch-backend", variant, line), line) for line in lines]
        failed = {
            line: output
            for words, line in single
            if (output := await self._tried(words, request, log)) is not None
        }
        if failed and not together and len(failed) == len(single):
            raise install_error("\n".join(failed.values()), None)
        if failed:
            told = ", ".join(failed)
            await say(log, f"ERROR: Failed to install: {told}. During automated build process.")

    async def _tried(self, words: Iterable[str], request: BuildRequest, log: LogSink) -> str | None:
        """The output of a call of uv that failed; `None` when it worked."""
        output = Tail(then=log.write)
        command = Command((str(uv_program()), *words), self._uv_environment(), request.context)
        return output.text if await run(command, output, output) != 0 else None

    async def _uv(
        self,
        arguments: Iterable[str],
        request: BuildRequest,
        requirements: Requirements | None,
        log: LogSink,
    ) -> None:
        output = await self._tried(arguments, request, log)
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

    async def _inputs(self, request: BuildRequest) -> _Inputs:
        return await in_thread(self._threads, lambda stop: _read_inputs(request, stop))

    def _found(self, key: str, *, reused: bool) -> Image | None:
        folder = self._folder(key)
        if not (folder / _COMPLETE).exists():
            return None
        cache.mark_used(folder)
        venv = folder / "venv"
        name = f"environment {folder.name[:12]}"
        return Image(str(venv), "environment", reused, name, environment=venv)

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
        # Beside, in a folder for the agent alone; jobs of another user must reach `_root`.
        return self._root.with_name("locks") / f"{folder.name}.lock"


def _refuse_images(request: BuildRequest) -> None:
    wants = "a Dockerfile" if request.dockerfile else "a base image" if request.base_image else None
    if wants is not None:
        raise JobError(
            Cause.BUILD_UNAVAILABLE,
            f"The job brings {wants}, and this agent builds virtual environments only.",
            hint="Send it to an agent with a container engine.",
        )


def _read_inputs(request: BuildRequest, stop: Stop) -> _Inputs:
    check_paths(request)
    requirements = find_requirements(request.context, request.root)
    local = requirements is not None and requirements.local
    code = tree_digest(request.root, everything=False, stop=stop) if local else ""
    return _Inputs(requirements, code)


def _local_arguments(root: Path, requirements: Requirements | None) -> list[tuple[Path, str]]:
    """Packages in the code; never editable, since the code's folder goes with the attempt."""
    local = requirements.local if requirements else ()
    return [(each.path.relative_to(root.resolve()), each.extras) for each in local]


def _begin(folder: Path, requirements: Requirements | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cache.mark_used(folder)
    given = requirements or Requirements("")
    (folder / given.file_name).write_text(given.packages, encoding="utf-8")
    (folder / "constraints.txt").write_text(given.constraints, encoding="utf-8")


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
