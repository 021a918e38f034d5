"""One virtual environment made and filled by uv, as the agent's user or as a job's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.builders.requirements import (
    CONSTRAINTS,
    FOLDERS,
    LISTED,
    LOCAL,
    PYLOCK,
    Requirements,
)
from agent.builders.uv import install_error
from agent.ports.log import LogSink, write_line
from agent.system.child import Command, Tail, run
from agent.system.job_users import JobUser


@dataclass(frozen=True, slots=True)
class Installation:
    """What one environment is made with."""

    uv: Path
    #: uv's whole environment.
    variables: Mapping[str, str] = field(repr=False)
    #: Build scripts of packages are code of the job; `None`: they run as the agent's user.
    user: JobUser | None
    #: The build context.
    context: Path
    requirements: Requirements
    #: Files of the requirements, by name, in the folder.
    files: Mapping[str, str]
    #: Folder of the environment.
    folder: Path
    log: LogSink

    async def run(self, interpreter: Path) -> None:
        """Make the environment and install what is required.

        Raises:
            JobError: see `install_error`.
        """
        venv = self.folder / "venv"
        await write_line(self.log, f"making a virtual environment of {interpreter}")
        await self._uv(
            ("venv", "--no-project", "--no-config", "--python", str(interpreter), str(venv))
        )
        for remark in self.requirements.remarks:
            await write_line(self.log, f"warning: {remark}")
        if not self.requirements:
            await write_line(self.log, "no list of requirements: nothing to install")
            return
        await write_line(self.log, f"installing from {self.requirements.found_in}")
        install = ("pip", "install", "--no-config", "--python", str(venv / "bin/python"))
        if self.requirements.lenient:
            await self._install_frozen((*install, "--no-deps"))
        else:
            await self._install(install)

    async def _install(self, install: tuple[str, ...]) -> None:
        files = self.files
        name = next((name for name in (LOCAL, LISTED, PYLOCK) if files[name]), None)
        listed = ("-r", str(self.folder / name)) if name else ()
        packages = (*listed, *files[FOLDERS].splitlines())
        if not packages:
            return
        exact = ("--no-deps",) if self.requirements.exact else ()
        constraints = ("-c", str(self.folder / CONSTRAINTS)) if files[CONSTRAINTS] else ()
        await self._uv((*install, *exact, *self.requirements.options, *constraints, *packages))

    async def _install_frozen(self, alone: tuple[str, ...]) -> None:
        """What no index has is left out and reported; it fails when nothing can be installed."""
        plain = [line.text for line in self.requirements.lines]
        single = [((*alone, line), line) for line in plain]
        listed = ("-r", str(self.folder / LISTED))
        all_plain = bool(plain) and await self._try_uv((*alone, *listed)) is None
        if all_plain:
            single = []
        for variant, lines in self.requirements.variants:
            single += [((*alone, "--torch-backend", variant, line), line) for line in lines]
        failed = {
            line: output
            for words, line in single
            if (output := await self._try_uv(words)) is not None
        }
        if failed and not all_plain and len(failed) == len(single):
            raise install_error("\n".join(failed.values()), self.requirements)
        if failed:
            names = ", ".join(failed)
            await write_line(
                self.log, f"ERROR: Failed to install: {names}. During automated build process."
            )

    async def _try_uv(self, words: Iterable[str]) -> str | None:
        """The output of a call of uv that failed; `None` when it worked."""
        output = Tail(then=self.log.write)
        argv = (str(self.uv), *words)
        command = Command(argv, self.variables, self.context, user=self.user)
        return output.text if await run(command, output, output) != 0 else None

    async def _uv(self, words: Iterable[str]) -> None:
        output = await self._try_uv(words)
        if output is not None:
            raise install_error(output, self.requirements)
