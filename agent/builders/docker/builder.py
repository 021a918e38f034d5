"""The docker builder: from a source tree to an image that its content key finds again."""

from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agent.builders.context import content_key, tree_digest
from agent.builders.docker import pushing
from agent.builders.docker.buildx import (
    Invocation,
    arguments,
    build,
    child_environment,
    secret_sources,
    workspace,
)
from agent.builders.docker.engine import Engine, EngineAwayError, EngineRefusedError, ImageFacts
from agent.builders.docker.failures import Attempt, engine_away
from agent.builders.docker.plan import Plan, launch_context, make_plan
from agent.builders.docker.reference import NAMESPACE
from agent.builders.uv import indexes, uv_version
from agent.config.execution import BuilderConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.names import LABEL_BUILD_KEY, LABEL_KIND, safe_image_name
from agent.model.work import Image
from agent.ports.builder import BuildRequest
from agent.ports.log import LogSink, say
from agent.system.cache import Entry, surplus
from agent.system.threads import Stop, in_thread

#: Part of every key: raise it when equal inputs give another image.
_VERSION: Final = 1
_TAG: Final = 12


class DockerBuilder:
    """`BuilderPort` over BuildKit in the agent's engine.

    `cache` is a folder for short-lived files. The engine is closed by whoever made it.
    """

    name = "docker"

    def __init__(
        self,
        config: BuilderConfig,
        engine: Engine,
        cache: Path,
        *,
        threads: Executor,
        environment: Mapping[str, str],
    ) -> None:
        self._config = config
        self._engine = engine
        self._cache = cache
        self._threads = threads
        self._environment = environment

    async def key(self, request: BuildRequest) -> str:
        """See `BuilderPort`. A base image that is here counts by its id, not by its name."""
        parts = await in_thread(self._threads, lambda stop: self._parts(request, stop))
        try:
            parts["platform"] = self._config.platform or str(await self._engine.platform())
            for base in parts["bases"]:
                facts = await self._engine.image(base)
                parts[f"base {base}"] = facts.id if facts else "not here"
        except EngineAwayError as error:
            raise engine_away(str(error)) from None
        return content_key(parts)

    def _parts(self, request: BuildRequest, stop: Stop) -> dict[str, Any]:
        plan = make_plan(request, self._config)
        generated = plan.generated
        found = indexes(self._config, self._environment)
        texts = {} if generated is None else launch_context(generated)
        return {
            "version": _VERSION,
            "network": self._config.network,
            "files": tree_digest(request.context, everything=generated is None, stop=stop),
            "dockerfile": plan.shown_dockerfile if generated is None else generated.text,
            "ignore": "" if generated is None else generated.ignore,
            "launch": sorted(texts.items()),
            "uv": "" if generated is None else uv_version(),
            "indexes": "" if generated is None else (found.index_url, found.extra_index_urls),
            "secrets": sorted(self._config.secrets),
            "bases": plan.bases,
        }

    async def find(self, key: str) -> Image | None:
        """See `BuilderPort`. Finding renews the image's last use."""
        try:
            for listed in await self._engine.labelled(f"{LABEL_BUILD_KEY}={key}"):
                tag = _own_tag(listed, key)
                facts = await self._engine.image(listed["Id"]) if tag else None
                if tag and facts and (image := self._image(facts, tag, reused=True)):
                    await self._engine.tag(facts.id, *_split(tag))
                    return image
        except EngineAwayError as error:
            raise engine_away(str(error)) from None
        except EngineRefusedError as error:
            # Removed between two calls: it is not there.
            if error.status != 404:  # noqa: PLR2004
                raise engine_away(str(error)) from None
        return None

    async def build(self, request: BuildRequest, key: str, log: LogSink) -> Image:
        """See `BuilderPort`."""
        plan = await in_thread(self._threads, lambda _: make_plan(request, self._config))
        await _announce(plan, request, log)
        tag = f"{NAMESPACE}{safe_image_name(request.title)}:{key[:_TAG]}"
        image_id = await self._run(plan, request, tag, key, log)
        try:
            facts = await self._engine.image(image_id)
            if facts is not None and self._config.destination:
                digest = await pushing.push(
                    self._engine, facts.id, self._config.destination, key[:_TAG],
                    self._environment, self._threads, log,
                )  # fmt: skip
                return Image(f"{self._config.destination}@{digest}", "digest", False, tag)
        except EngineAwayError as error:
            raise engine_away(str(error)) from None
        image = self._image(facts, tag, reused=False) if facts else None
        if image is None:
            raise JobError(
                Cause.BUILD_FAILED, f"The engine does not have the image {tag} it built."
            )
        await say(log, f"built {tag} ({image.pinned_by} {image.reference})")
        return image

    async def _run(
        self, plan: Plan, request: BuildRequest, tag: str, key: str, log: LogSink
    ) -> str:
        found = indexes(self._config, self._environment)
        values, files = await in_thread(
            self._threads, lambda _: secret_sources(self._config, found, self._environment)
        )
        labels = {**request.labels, LABEL_BUILD_KEY: key, LABEL_KIND: "image"}
        invocation = Invocation(plan, tag, labels, values, files, found.proxies)
        env = child_environment(invocation, self._engine.host, self._environment)
        requirements = plan.generated.requirements if plan.generated else None
        attempt = Attempt(request.title, plan.shown_dockerfile, requirements)
        with ExitStack() as stack:
            context = workspace(self._cache, plan)
            work = await in_thread(self._threads, lambda _: stack.enter_context(context))
            await build(arguments(work, invocation, self._config), env, attempt, log)
            return await in_thread(
                self._threads, lambda _: work.id_file.read_text(encoding="utf-8").strip()
            )

    def _image(self, facts: ImageFacts, tag: str, *, reused: bool) -> Image | None:
        """By digest where the store has one, else by id; pushed images by the registry's."""
        repository = self._config.destination or tag.rpartition(":")[0]
        pinned = next((each for each in facts.digests if each.startswith(f"{repository}@")), None)
        if pinned is not None:
            return Image(pinned, "digest", reused, tag)
        return None if self._config.destination else Image(facts.id, "image-id", reused, tag)

    async def prune(self, max_age: float, max_bytes: int) -> int:
        """See `BuilderPort`: images of ours by their last use; containers protect theirs."""
        try:
            return await self._prune(max_age, max_bytes)
        except (EngineAwayError, EngineRefusedError):
            return 0

    async def prune_cache(self, max_age: float, max_bytes: int) -> int:
        """The same for BuildKit's cache, which is one for the whole engine."""
        try:
            return await self._engine.prune_build_cache(max_age, max_bytes)
        except (EngineAwayError, EngineRefusedError):
            return 0

    async def _prune(self, max_age: float, max_bytes: int) -> int:
        now = datetime.now(UTC)
        tags: dict[Path, list[str]] = {}
        found: list[Entry] = []
        for listed in await self._engine.labelled(LABEL_BUILD_KEY):
            ours = [tag for tag in listed.get("RepoTags") or () if tag.startswith(NAMESPACE)]
            if not ours:
                continue
            idle = now - _time(await self._engine.last_tagged(listed["Id"]), now)
            name = Path(listed["Id"])
            tags[name] = ours
            found.append(Entry(name, idle.total_seconds(), listed.get("Size") or 0))
        found.sort(key=lambda entry: -entry.idle)
        freed = 0
        for entry in surplus(found, max_age, max_bytes):
            removed = [await self._engine.remove(tag) for tag in tags[entry.folder]]
            freed += entry.size if all(removed) else 0
        return freed


async def _announce(plan: Plan, request: BuildRequest, log: LogSink) -> None:
    if plan.generated is None:
        await say(log, f"building {request.title} from its {plan.shown_dockerfile}")
        return
    requirements = plan.generated.requirements
    found = f"with {requirements.found_in}" if requirements else "without requirements"
    await say(log, f"building {request.title} on {plan.bases[0]}, {found}")


def _own_tag(listed: Mapping[str, Any], key: str) -> str | None:
    """The tag that only a build here can have given; a label alone proves nothing."""
    tags = listed.get("RepoTags") or ()
    wanted = f":{key[:_TAG]}"
    return next((tag for tag in tags if tag.startswith(NAMESPACE) and tag.endswith(wanted)), None)


def _split(tag: str) -> tuple[str, str]:
    repository, _, name = tag.rpartition(":")
    return repository, name


def _time(text: str, otherwise: datetime) -> datetime:
    """Docker writes nanoseconds and a zone; what cannot be read counts as used now."""
    try:
        return datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)
    except ValueError:
        return otherwise
