"""Pushes a built image to the configured destination and learns its digest there."""

from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Final, cast

from agent.builders.docker.credentials import registry_auth
from agent.builders.docker.engine import Engine, EngineRefusedError
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.ports.log import LogSink, say
from agent.system.threads import in_thread

_IDLE: Final = 300.0


async def push(
    engine: Engine,
    image_id: str,
    repository: str,
    tag: str,
    environment: Mapping[str, str],
    threads: Executor,
    log: LogSink,
) -> str:
    """Push; give the digest that the registry has it under.

    Raises:
        JobError: `BUILD_FAILED`, with the registry's words.
        EngineAwayError: the engine went away.
    """
    auth = await in_thread(threads, lambda _: registry_auth(repository, environment))
    await say(log, f"pushing to {repository}:{tag}")
    digest: str | None = None
    try:
        await engine.tag(image_id, repository, tag)
        # Without a login the engine still wants the header.
        stream = engine.events(
            f"/images/{repository}/push", auth=auth or "e30=", idle=_IDLE, tag=tag
        )
        async with aclosing(cast("AsyncGenerator[dict[str, object], None]", stream)) as events:
            async for event in events:
                if "error" in event:
                    raise _failed(repository, str(event["error"]))
                aux = event.get("aux")
                if isinstance(aux, dict) and "Digest" in aux:
                    digest = str(aux["Digest"])
    except EngineRefusedError as error:
        raise _failed(repository, error.message) from None
    except TimeoutError:
        raise _failed(repository, f"no progress for {_IDLE:g} s") from None
    if digest is None:
        raise _failed(repository, "the registry told no digest")
    return digest


def _failed(repository: str, why: str) -> JobError:
    return JobError(
        Cause.BUILD_FAILED,
        f"The image cannot be pushed to {repository}: {why.rstrip('.')}.",
        hint="Check `builder.destination` and log the agent's machine in with `docker login`.",
    )
