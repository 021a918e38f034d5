"""The users that process jobs run as: one for all of them, or one of a range for each."""

import asyncio
import bisect
import errno
import fcntl
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.model.cause import Cause
from agent.model.errors import ConfigError, ConflictError, JobError
from agent.system.tasks import in_thread

#: Locked by the byte of each uid, so that two agents of a machine never use the same one.
_LOCK: Final = Path("/run/launch-agent-uids.lock")
#: Folders in which every user may write.
_SHARED: Final = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock")  # noqa: S108
_SHELL: Final = "/bin/sh"
#: System V objects: table below /proc/sysvipc, option of ipcrm.
_IPC: Final = (("shm", "-m"), ("sem", "-s"), ("msg", "-q"))


@dataclass(frozen=True, slots=True)
class JobUser:
    """What a process needs to become a user."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    #: `None`: each job has a home of its own.
    home: str | None = None

    @classmethod
    def named(cls, name: str) -> "JobUser":
        """Look a user up.

        Raises:
            ConfigError: there is no such user, or the agent may not become another user.
        """
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            message = f"`runners.local-process.user`: there is no user '{name}'."
            raise ConfigError(message, hint="Create the user, or name another.") from None
        if os.geteuid() != 0 and entry.pw_uid != os.geteuid():
            message = f"`runners.local-process.user`: only root can run jobs as '{name}'."
            raise ConfigError(message, hint="Start the agent as root, or leave `user` out.")
        groups = tuple(os.getgrouplist(name, entry.pw_gid))
        return cls(name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)

    @classmethod
    def numbered(cls, uid: int) -> "JobUser":
        """The user of a range with this uid; it has no name, and a group of its own."""
        return cls(str(uid), uid, uid)

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that name the user; `home` is that of a user without one."""
        return {"HOME": self.home or str(home), "USER": self.name, "LOGNAME": self.name}

    def process_options(self) -> dict[str, Any]:
        """Arguments of `subprocess.Popen` that make a child run as this user.

        What a user of a range writes is readable for itself only.
        """
        options = {"user": self.uid, "group": self.gid, "extra_groups": list(self.groups)}
        return options if self.home else {**options, "umask": 0o077}

    def hand_over(self, folder: Path) -> None:
        """As `own`, for a folder that the user must be able to reach. Blocks.

        Raises:
            JobError: `START_FAILED`: the user may not enter a folder above it.
        """
        closed = self.closed_parent(folder)
        if closed is not None:
            message = f"User '{self.name}' may not enter {closed}, which contains its job."
            hint = "Set `state_dir` to a folder that this user can reach."
            raise JobError(Cause.START_FAILED, message, hint=hint)
        self.give_ownership(folder)

    def closed_parent(self, path: Path) -> Path | None:
        """The uppermost folder above a path that the user may not enter, if there is one."""
        closed = (parent for parent in reversed(path.parents) if not self._may_enter(parent))
        return next(closed, None)

    def give_ownership(self, folder: Path) -> None:
        """Make the user the owner of a folder and all that is in it, and close it to others.

        Blocks. The folder itself is last: until then nobody can replace what is in it.
        """
        os.chown(folder, os.geteuid(), os.getegid(), follow_symlinks=False)
        folder.chmod(0o700)
        for parent, name in _entries_below(folder):
            os.chown(name, self.uid, self.gid, dir_fd=parent, follow_symlinks=False)
        os.chown(folder, self.uid, self.gid, follow_symlinks=False)

    def _may_enter(self, folder: Path) -> bool:
        facts = folder.stat()
        if facts.st_uid == self.uid:
            return bool(facts.st_mode & 0o100)
        if facts.st_gid in self.groups or facts.st_gid == self.gid:
            return bool(facts.st_mode & 0o010)
        return bool(facts.st_mode & 0o001)


class JobUsers:
    """Hands out users: the `single` one to everybody, or each of `uids` to one holder at a time.

    A job keeps its user until it is removed. `held` lists the uids of jobs that an earlier agent
    process started; it is asked once, and blocks.
    """

    def __init__(
        self,
        single: JobUser | None,
        uids: Sequence[int],
        held: Callable[[], Iterable[int]],
        threads: Executor,
    ) -> None:
        self.single = single
        #: The single user, or the first of the range: for checks that are the same for all.
        self.sample = single or JobUser.numbered(uids[0])
        self._free = list(uids)
        self._held = held
        self._threads = threads
        self._lock: int | None = None
        self._changed = asyncio.Condition()

    def lock(self) -> None:
        """Keep other agents of this machine from using the same uids until this process ends.

        Raises:
            ConfigError: this process is not root's, or a uid belongs to a user of the machine.
            ConflictError: another agent uses one of the uids.
        """
        if not self._free:
            return
        if os.geteuid() != 0:
            message = "`runners.local-process.user`: only root can run jobs as other users."
            raise ConfigError(message, hint="Start the agent as root, or leave `user` out.")
        known = {entry.pw_uid: entry.pw_name for entry in pwd.getpwall()}
        for uid in self._free:
            if uid in known:
                message = f"`runners.local-process.user`: {uid} is the user '{known[uid]}'."
                raise ConfigError(message, hint="Choose a range that nothing else uses.")
        self._lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        first, count = self._free[0], len(self._free)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, count, first)
        except BlockingIOError:
            message = "Another agent of this machine uses uids of `runners.local-process.user`."
            raise ConflictError(message, hint="Give each agent a range of its own.") from None

    def of(self, uid: int) -> JobUser:
        """The user of a job that was created with this uid."""
        if self.single is not None and self.single.uid == uid:
            return self.single
        return JobUser.numbered(uid)

    async def take(self, preferred: int | None = None) -> JobUser:
        """A user that nobody else holds; waits while there is none."""
        if self.single is not None:
            return self.single
        async with self._changed:
            await self._leave_out_held()
            await self._changed.wait_for(lambda: self._free)
            uid = preferred if preferred in self._free else self._free[0]
            self._free.remove(uid)
        return JobUser.numbered(uid)

    async def _leave_out_held(self) -> None:
        held, self._held = self._held, lambda: ()
        found = await in_thread(self._threads, lambda _: set(held()))
        self._free = [uid for uid in self._free if uid not in found]

    async def give_back(self, user: JobUser) -> None:
        """Make a user free again, after whatever it left behind was removed."""
        if self.single is not None:
            return
        await in_thread(self._threads, lambda _: _remove_traces(user))
        async with self._changed:
            if user.uid not in self._free:
                bisect.insort(self._free, user.uid)
            self._changed.notify_all()

    @asynccontextmanager
    async def lent(self, preferred: int | None = None) -> AsyncIterator[JobUser]:
        """A user for the time of the context."""
        user = await self.take(preferred)
        try:
            yield user
        finally:
            await asyncio.shield(self.give_back(user))


def kill_all(user: JobUser) -> None:
    """Kill every process of a user of a range. Blocks.

    One call of the kernel reaches all of them, so that none can fork away.
    """
    subprocess.run(
        [_SHELL, "-c", "kill -9 -1"],
        user=user.uid, group=user.gid, extra_groups=[], env={}, cwd="/",
        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def take_over(folder: Path, user: JobUser) -> None:
    """Make the agent the owner of what a user made, readable for all and writable for none.

    Blocks.

    Raises:
        PermissionError: a file in it belongs to somebody else, which only a link can bring there.
    """
    for parent, name in _entries_below(folder):
        facts = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if facts.st_uid not in {user.uid, os.geteuid()}:
            raise PermissionError(errno.EPERM, "a file of another user is in it", name)
        os.chown(name, os.geteuid(), os.getegid(), dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(facts.st_mode) or stat.S_ISREG(facts.st_mode):
            executable = 0o111 if stat.S_ISDIR(facts.st_mode) or facts.st_mode & 0o100 else 0
            _change_mode(parent, name, 0o644 | executable)
    os.chown(folder, os.geteuid(), os.getegid(), follow_symlinks=False)
    folder.chmod(0o755)


def _change_mode(parent: int, name: str, mode: int) -> None:
    """`os.chmod` that follows no link, which Linux lacks."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=parent)
    try:
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _remove_traces(user: JobUser) -> None:
    """Processes, files in shared folders, and System V objects: the next holder finds nothing."""
    kill_all(user)
    for folder in _SHARED:
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                _remove_if_owned(entry, user)
    for kind, option in _IPC:
        for number in _objects(kind, user.uid):
            subprocess.run(["ipcrm", option, number], check=False, stderr=subprocess.DEVNULL)


def _remove_if_owned(entry: os.DirEntry[str], user: JobUser) -> None:
    with suppress(OSError):
        if entry.stat(follow_symlinks=False).st_uid != user.uid:
            return
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)  # noqa: PTH108 -- a path object per file is not free


def _objects(kind: str, uid: int) -> Iterator[str]:
    """Ids of a user's System V objects, from the kernel's table with its heading."""
    with suppress(OSError, ValueError, IndexError):
        heading, *rows = Path("/proc/sysvipc", kind).read_text("ascii").splitlines()
        names = heading.split()
        number, owner = names.index(f"{kind}id" if kind != "msg" else "msqid"), names.index("uid")
        yield from (row.split()[number] for row in rows if row.split()[owner] == str(uid))


def _entries_below(folder: Path) -> Iterator[tuple[int, str]]:
    """Open folder and name of everything below it, bottom first; links are not followed.

    Names relative to open folders: a process that replaces a folder by a link redirects nothing.
    """
    for _, folders, files, parent in os.fwalk(folder, topdown=False, follow_symlinks=False):
        for name in (*files, *folders):
            yield parent, name
