"""The users that jobs as processes run as, and their way through the agent's folders."""

from concurrent.futures import Executor
from pathlib import Path

from agent.config.agent import AgentConfig
from agent.model.errors import ConfigError
from agent.runners.process.folder import held_uids
from agent.system.job_users import JobUser, JobUsers


def job_users(config: AgentConfig, root: Path, threads: Executor) -> JobUsers | None:
    """The users that processes run as; `None`: they run as the agent's.

    Raises:
        ConfigError: there is no such user, or there are fewer uids than jobs at a time.
    """
    settings, jobs = config.runners.local_process, config.max_jobs
    uids = settings.uid_range
    if settings.user is None and not uids:
        return None
    if uids and not 0 < jobs <= len(uids):
        shown = "any number of" if jobs < 0 else str(jobs)
        message = (
            f"`runners.local-process.user` has {len(uids)} uids, and `max_jobs` allows {shown} "
            "jobs at a time, each of which needs one."
        )
        raise ConfigError(message, hint="Choose a longer range, or set `max_jobs` lower.")
    single = None if uids or settings.user is None else JobUser.named(settings.user)
    return JobUsers(single, uids, lambda: held_uids(root), threads)


def open_to_users(state: Path) -> None:
    """Let other users pass through the folders that lead to jobs, and close everything else."""
    for entry in state.iterdir():
        entry.chmod(0o700 if entry.is_dir() else 0o600)
    for folder in (state, state / "attempts", state / "cache", state / "cache" / "python"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)
