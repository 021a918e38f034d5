"""What the command line asks of a control plane: queues, items, agents, logs.

Replies are the wire's own objects (`control/graphql/schema.graphql`), since `--json` shows
them as they are.
"""

from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import quote

from agent.model.errors import InvalidInputError, LaunchError, NotFoundError
from agent.model.job.names import JobReference, parse_reference
from agent.model.names import did_you_mean
from agent.remote.client import ControlPlaneClient

Json = dict[str, Any]

_QUEUE: Final = """
  id name entityName resource paused prioritizationMode createdBy createdAt config
  warnings templateVariables { name schema description }
  counts { phase count }
  agents { id name agentStatus lost heartbeatAt }
"""
_ITEM: Final = """
  id state phase lostContact name displayName job entityName projectName
  queueName runName author priority
  createdAt updatedAt startedAt finishedAt stopRequested attempt activity agentId agentName
  cause message exitCode warnings
"""
_ITEM_WHOLE: Final = (
    _ITEM
    + """
  runSpec facts
  attempts { number phase agentName cause message exitCode startedAt finishedAt
    setupLogBytes jobLogBytes }
  events { at phase attempt epoch actor text }
  explanation { cause summary remedy details }
"""
)
_AGENT: Final = """
  id name hostname agentStatus lost draining stopPolling heartbeatAt createdAt version
  entityName queueNames capacity
  items { id name displayName phase queueName activity startedAt }
  conditions { kind message resource }
"""

_PAGE: Final = 500
#: Items whose name is compared with one that was given in place of an id.
_NAMESAKES: Final = 10
#: Seconds without a byte of a log.
_LOG_READ_TIMEOUT: Final = 90.0


class UserOperations:
    """Operations on one control plane, as the owner of the client's key.

    Every method raises `UnreachableError`, `AuthenticationError` and `PermissionDeniedError`
    besides what it names.
    """

    def __init__(self, client: ControlPlaneClient, entity: str | None = None) -> None:
        self._client = client
        #: `None` leaves the choice to the server: the key's owner.
        self.entity = entity

    @property
    def client(self) -> ControlPlaneClient:
        """The session, for operations that have a class of their own."""
        return self._client

    # ------------------------------------------------------------------ identity

    async def viewer(self) -> Json:
        """Who the key belongs to."""
        data = await self._client.execute(
            "query Viewer { viewer { id name username entity admin } }"
        )
        viewer: Json | None = data.get("viewer")
        return viewer or {}

    async def acting_entity(self) -> str:
        """The entity that operations are about."""
        if self.entity is None:
            viewer = await self.viewer()
            self.entity = str(viewer.get("entity") or viewer.get("username") or "")
        return self.entity

    async def job_reference(self, text: str, project: str | None = None) -> JobReference:
        """A job's reference in full; entity and project may be left out where they are known.

        Raises:
            InvalidInputError: no reference, or one without a project.
        """
        # Two slashes name everything.
        entity = await self.acting_entity() if text.count("/") < 2 else None  # noqa: PLR2004
        return parse_reference(text, entity=entity, project=project)

    # ------------------------------------------------------------------ queues

    async def queues(self) -> list[Json]:
        """All queues, by name."""
        data = await self._client.execute(
            "query Queues($entity: String) { launchQueues(entityName: $entity) {" + _QUEUE + "} }",
            {"entity": self.entity},
        )
        queues: list[Json] = data["launchQueues"]
        return queues

    async def queue(self, name: str) -> Json:
        """One queue.

        Raises:
            NotFoundError: with the nearest name there is.
        """
        queues = {str(queue["name"]): queue for queue in await self.queues()}
        if name not in queues:
            message = f"There is no queue `{name}`."
            raise NotFoundError(message, hint=did_you_mean(name, queues, "queue"))
        return queues[name]

    async def save_queue(self, mode: str, **fields: Any) -> Json:
        """Create or replace a queue; `mode` is CREATE, UPDATE or EITHER.

        Raises:
            AlreadyExistsError, NotFoundError, InvalidInputError: the queue, or its template.
        """
        document = (
            "mutation SaveQueue($input: SaveLaunchQueueInput!) { saveLaunchQueue(input: $input) {"
            + _QUEUE
            + "} }"
        )
        given = {"entityName": self.entity, "mode": mode, **fields}
        # A second CREATE makes nothing: it is told that there is one.
        data = await self._client.execute(document, {"input": given}, idempotent=True)
        queue: Json = data["saveLaunchQueue"]
        return queue

    async def delete_queue(self, name: str, *, force: bool) -> None:
        """Remove a queue; `force` stops its items first.

        Raises:
            NotFoundError: there is none of that name.
            ConflictError: items are alive.
        """
        await self._client.execute(
            "mutation DeleteQueue($entity: String, $name: String!, $force: Boolean) {"
            " deleteLaunchQueue(entityName: $entity, name: $name, force: $force) }",
            {"entity": self.entity, "name": name, "force": force},
            idempotent=True,
        )

    async def pause_queue(self, name: str, *, paused: bool) -> Json:
        """Pause or resume a queue.

        Raises:
            NotFoundError: there is no queue of that name.
        """
        data = await self._client.execute(
            "mutation PauseQueue($entity: String, $name: String!, $paused: Boolean!) {"
            " pauseLaunchQueue(entityName: $entity, name: $name, paused: $paused) {"
            + _QUEUE
            + "} }",
            {"entity": self.entity, "name": name, "paused": paused},
            idempotent=True,
        )
        queue: Json = data["pauseLaunchQueue"]
        return queue

    async def set_job_creation(self, project: str, *, enabled: bool) -> None:
        """Let runs of a project become jobs, or not.

        Raises:
            NotFoundError: there is no such project.
        """
        await self._client.execute(
            "mutation SetJobCreation($entity: String, $project: String!, $enabled: Boolean!) {"
            " setLaunchJobCreation(entityName: $entity, projectName: $project, enabled: $enabled)"
            " }",
            {"entity": self.entity, "project": project, "enabled": enabled},
            idempotent=True,
        )

    async def set_own_job_creation(self, *, enabled: bool) -> None:
        """Let runs of the caller become jobs, or not."""
        await self._client.execute(
            "mutation SetOwnJobCreation($enabled: Boolean!) {"
            " setOwnLaunchJobCreation(enabled: $enabled) }",
            {"enabled": enabled},
            idempotent=True,
        )

    # ------------------------------------------------------------------ items

    async def items(
        self, *, phases: tuple[str, ...] = (), limit: int = 50, **narrow: str | None
    ) -> list[Json]:
        """Items, newest first; fetched in pages.

        `narrow` may have `queue`, `job`, `author` and `search`, a part of the name, or the id.
        """
        document = (
            "query Items($entity: String, $queue: String, $phases: [LaunchPhase!], $job: String,"
            " $author: String, $search: String, $after: String, $first: Int) {"
            " launchItems(entityName: $entity, queueName: $queue, phases: $phases,"
            " jobName: $job, author: $author, search: $search, after: $after,"
            " first: $first) { pageInfo { endCursor hasNextPage }"
            " edges { node {" + _ITEM + "} } } }"
        )
        found: list[Json] = []
        after: str | None = None
        while len(found) < limit:
            variables = {
                "entity": self.entity,
                **narrow,
                "phases": list(phases) or None,
                "after": after,
                "first": min(limit - len(found), _PAGE),
            }
            page = (await self._client.execute(document, variables))["launchItems"]
            found += [edge["node"] for edge in page["edges"]]
            if not page["pageInfo"]["hasNextPage"]:
                break
            after = page["pageInfo"]["endCursor"]
        return found

    async def item(self, item_id: str) -> Json:
        """One item with its attempts, events and explanation.

        Raises:
            NotFoundError: there is none of that id.
        """
        return await self._item(item_id, _ITEM_WHOLE)

    async def item_summary(self, item_id: str) -> Json:
        """One item without attempts' details, for frequent polling.

        Raises:
            NotFoundError: there is none of that id.
        """
        return await self._item(item_id, _ITEM + " attempts { number setupLogBytes jobLogBytes }")

    async def submit(self, queue: str, spec: Json, **options: Any) -> Json:
        """Put one item on a queue; repeats are harmless with an `idempotencyKey`.

        Raises:
            NotFoundError: no such queue; with the nearest name there is.
            InvalidInputError: the spec or a template variable.
        """
        document = (
            "mutation Submit($input: SubmitLaunchItemInput!) { submitLaunchItem(input: $input) {"
            + _ITEM
            + "} }"
        )
        given = {"entityName": self.entity, "queueName": queue, "runSpec": spec, **options}
        try:
            data = await self._client.execute(
                document, {"input": given}, idempotent=bool(options.get("idempotencyKey"))
            )
        except NotFoundError as error:
            raise await self._with_suggestion(error, queue) from None
        item: Json = data["submitLaunchItem"]
        return item

    async def dry_run(self, queue: str | None, spec: Json, **options: Any) -> Json:
        """What `submit` would put on a queue; `None`: a direct run, without a template.

        `jobFile`: the job file of a job that is not stored.

        Raises: as `submit`.
        """
        document = (
            "query DryRun($input: LaunchDryRunInput!) { launchDryRun(input: $input) {"
            " entityName projectName queueName resource cpus memory runSpec layers"
            " warnings } }"
        )
        given = {"entityName": self.entity, "queueName": queue, "runSpec": spec, **options}
        try:
            data = await self._client.execute(document, {"input": given}, idempotent=True)
        except NotFoundError as error:
            if queue is None:
                raise
            raise await self._with_suggestion(error, queue) from None
        answer: Json = data["launchDryRun"]
        return answer

    async def stop_item(self, item_id: str) -> Json:
        """Ask for an item to be stopped.

        Raises:
            NotFoundError, ConflictError: no such item, or it has ended.
        """
        return await self._item_mutation("stopLaunchItem", item_id)

    async def retry_item(self, item_id: str) -> Json:
        """Open a new attempt after the one that the item has now.

        Raises:
            NotFoundError, ConflictError: no such item, or it has not ended.
        """
        ended = (await self._item(item_id, "attempt"))["attempt"]
        return await self._item_mutation(
            "retryLaunchItem", item_id, ", $attempt: Int", attempt=ended
        )

    async def move_item(self, item_id: str, queue: str) -> Json:
        """Move a queued item to another queue.

        Raises:
            NotFoundError, ConflictError: no such item or queue, or it is not queued any more.
        """
        return await self._item_mutation(
            "moveLaunchItem", item_id, ", $queueName: String!", queueName=queue
        )

    async def set_priority(self, item_id: str, priority: int) -> Json:
        """0 critical, 1 high, 2 medium, 3 low.

        Raises:
            NotFoundError, ConflictError: no such item, or it is not queued any more.
        """
        return await self._item_mutation(
            "setLaunchItemPriority", item_id, ", $priority: Int!", priority=priority
        )

    # ------------------------------------------------------------------ agents

    async def agents(self) -> list[Json]:
        """Agents, newest heartbeat first."""
        data = await self._client.execute(
            "query Agents($entity: String) { launchAgents(entityName: $entity) {" + _AGENT + "} }",
            {"entity": self.entity},
        )
        agents: list[Json] = data["launchAgents"]
        return agents

    async def agent(self, name_or_id: str) -> Json:
        """One agent; of several with one name the newest.

        Raises:
            NotFoundError: with the nearest name there is.
        """
        agents = await self.agents()
        for agent in agents:
            if name_or_id in (agent["id"], agent["name"]):
                return agent
        names = {str(agent["name"]) for agent in agents}
        message = f"There is no agent `{name_or_id}`."
        raise NotFoundError(message, hint=did_you_mean(name_or_id, names, "agent"))

    async def stop_agent(self, agent_id: str, mode: str) -> Json:
        """Ask an agent to shut down: DRAIN lets its jobs finish, STOP stops them."""
        data = await self._client.execute(
            "mutation StopAgent($id: ID!, $mode: AgentStopMode!) {"
            " stopLaunchAgent(id: $id, mode: $mode) {" + _AGENT + "} }",
            {"id": agent_id, "mode": mode},
            idempotent=True,
        )
        agent: Json = data["stopLaunchAgent"]
        return agent

    # ------------------------------------------------------------------ logs

    async def log(
        self, item_id: str, attempt: int, channel: str, offset: int = 0, *, follow: bool = False
    ) -> AsyncIterator[bytes]:
        """A log from `offset` on; `follow` goes on until the attempt is over.

        Raises:
            NotFoundError: no such item or attempt.
            UnreachableError: the connection broke, or nothing came for 90 seconds; ask again from
                where it ended.
        """
        path = f"/launch/items/{quote(item_id)}/attempts/{attempt}/logs/{channel}"
        params: dict[str, str | int] = {"offset": offset}
        if follow:
            params["follow"] = 1
        async with self._client.stream(
            "GET", path, params=params, read_timeout=_LOG_READ_TIMEOUT
        ) as response:
            async for piece in response.content.iter_any():
                yield piece

    # ------------------------------------------------------------------ other operations

    async def run(
        self, document: str, variables: Json | None = None, *, idempotent: bool | None = None
    ) -> Json:
        """Any operation, for the rarer ones that have no method here."""
        return await self._client.execute(document, variables, idempotent=idempotent)

    async def sign_in_link(self) -> str:
        """A link that signs a browser in, once."""
        answer = await self._client.send("POST", "/launch/sign-in-links")
        return str(answer.json()["url"])

    # ------------------------------------------------------------------ helpers

    async def _item(self, item_id: str, fields: str) -> Json:
        data = await self._client.execute(
            "query Item($id: ID!) { launchItem(id: $id) {" + fields + "} }", {"id": item_id}
        )
        item: Json | None = data.get("launchItem")
        if item is None:
            hint = await self._ids_of(item_id)
            if not item_id.isalnum():
                message = f"'{item_id}' is not the id of an item: 12 letters and digits."
                raise InvalidInputError(message, hint=hint)
            message = f"There is no item `{item_id}`, or the key may not read it."
            raise NotFoundError(message, hint=hint)
        return item

    async def _ids_of(self, name: str) -> str:
        """A hint for somebody who gave an item's name where its id is needed."""
        found = await self.items(search=name, limit=_NAMESAKES)
        named = [f"`{each['id']}`" for each in found if each["displayName"] == name]
        if named:
            return f"Items of that name, newest first: {', '.join(named)}."
        return f"`launch item list{self._flag}` shows the ids."

    @property
    def _flag(self) -> str:
        """What commands in hints need, to be about the same entity."""
        return f" -e {self.entity}" if self.entity else ""

    async def _item_mutation(
        self, name: str, item_id: str, declared: str = "", **arguments: Any
    ) -> Json:
        passed = "".join(f", {each}: ${each}" for each in arguments)
        document = (
            f"mutation Change($id: ID!{declared}) {{ {name}(id: $id{passed}) {{" + _ITEM + "} }"
        )
        given = {"id": item_id, **arguments}
        try:
            data = await self._client.execute(document, given, idempotent=True)
        except NotFoundError as error:
            raise NotFoundError(
                error.message, hint=error.hint or await self._ids_of(item_id)
            ) from None
        item: Json = data[name]
        return item

    async def _with_suggestion(self, error: NotFoundError, queue: str) -> LaunchError:
        """The same error with the nearest queue's name, where the server gave no hint."""
        if error.hint:
            return error
        names = {str(each["name"]) for each in await self.queues()}
        if queue in names:
            return error
        message = f"There is no queue `{queue}`."
        return NotFoundError(message, hint=did_you_mean(queue, names, "queue"))
