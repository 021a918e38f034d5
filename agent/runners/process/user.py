"""The user that jobs run as, where the administrator names one."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError


@dataclass(frozen=True, slots=True)
class JobUser:
    """Ids and home of the user."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

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

    @property
    def environment(self) -> dict[str, str]:
        """Variables that tell programs who they are."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}

    def hand_over(self, folder: Path) -> None:
        """Make a job's copy of the source its user's own. Blocks.

        Raises:
            JobError: `START_FAILED`: a folder above it is closed to the user.
        """
        for parent in reversed(folder.parents):
            if not self._may_enter(parent):
                message = f"User '{self.name}' may not enter {parent}, where its job lies."
                hint = "Set `state_dir` to a folder that this user can reach."
                raise JobError(Cause.START_FAILED, message, hint=hint)
        for place, _, names in os.walk(folder):
            for path in (place, *(os.path.join(place, name) for name in names)):  # noqa: PTH118
                os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def _may_enter(self, folder: Path) -> bool:
        facts = folder.stat()
        if facts.st_uid == self.uid:
            return bool(facts.st_mode & 0o100)
        if facts.st_gid in self.groups:
            return bool(facts.st_mode & 0o010)
        return bool(facts.st_mode & 0o001)
