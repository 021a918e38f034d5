"""Jobs in several namespaces of one cluster: a runner for each.

Jobs run in the agent's own namespace unless their queue's template names one of those that the
administrator's configuration has in `namespaces`: then they run in that one alone.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import Any, Self

from agent.config.execution import KubernetesRunnerConfig
from agent.model.capacity import Demand
from agent.model.names import KUBERNETES
from agent.model.spec import Json
from agent.ports.runner import (
    LogPiece,
    LogPosition,
    Progress,
    RunRequest,
    StartResult,
    Workload,
)
from agent.runners.kubernetes.manifest import namespace_asked
from agent.runners.kubernetes.policy import check_namespace
from agent.runners.kubernetes.runner import KubernetesRunner, Login


class NamespacesRunner:
    """`RunnerPort` for the namespaces of a cluster; an async context manager."""

    resource = KUBERNETES

    def __init__(
        self,
        control_plane_id: str,
        config: KubernetesRunnerConfig,
        agent_name: str = "",
        login: Login | None = None,
    ) -> None:
        def runner_of(name: str | None) -> KubernetesRunner:
            own = config.model_copy(update={"namespace": name})
            return KubernetesRunner(control_plane_id, own, agent_name, login)

        self._config = config
        self._own = runner_of(config.namespace)
        self._others = {
            name: runner_of(name) for name in config.namespaces if name != config.namespace
        }
        #: Where a job is, by its name.
        self._homes: dict[str, KubernetesRunner] = {}
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            for runner in self._all:
                await opening.enter_async_context(runner)
            self._open = opening.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._open.aclose()

    @property
    def _all(self) -> tuple[KubernetesRunner, ...]:
        return self._own, *self._others.values()

    def _chosen(self, arguments: Json, template: Json) -> KubernetesRunner:
        """That of the namespace which a manifest asks for; the own one refuses what is unknown."""
        asked, granted = namespace_asked(arguments), namespace_asked(template)
        if asked in self._others or granted in self._others:
            check_namespace(asked, granted, self._config.allow)
        return self._others.get(asked, self._own)

    async def _home(self, workload: Workload) -> KubernetesRunner:
        if workload.name not in self._homes:
            await self.find(workload.name)
        return self._homes.get(workload.name, self._own)

    async def backend_id(self) -> str:
        """See the port: that of the agent's own namespace."""
        return await self._own.backend_id()

    def check(self, arguments: Json, template: Json) -> None:
        """See the port."""
        self._chosen(arguments, template).check(arguments, template)

    def demand(self, arguments: dict[str, Any]) -> Demand | None:
        """See the port."""
        return self._own.demand(arguments)

    def preview(self, request: RunRequest) -> Json:
        """See the port."""
        return self._chosen(request.arguments, request.template).preview(request)

    def side_services(self, request: RunRequest) -> Sequence[Json]:
        """See `KubernetesRunner.side_services`."""
        return self._chosen(request.arguments, request.template).side_services(request)

    async def dry_run(self, request: RunRequest) -> list[Json]:
        """See `KubernetesRunner.dry_run`."""
        return await self._chosen(request.arguments, request.template).dry_run(request)

    async def create(self, request: RunRequest) -> Workload:
        """See the port."""
        runner = self._chosen(request.arguments, request.template)
        self._homes[request.name] = runner
        return await runner.create(request)

    async def start(self, workload: Workload) -> StartResult:
        """See the port."""
        return await (await self._home(workload)).start(workload)

    async def settle(self, workload: Workload) -> StartResult:
        """See the port."""
        return await (await self._home(workload)).settle(workload)

    async def watch(self, workload: Workload) -> AsyncGenerator[Progress, None]:
        """See the port."""
        runner = await self._home(workload)
        async with aclosing(runner.watch(workload)) as progresses:
            async for progress in progresses:
                yield progress

    async def logs(
        self, workload: Workload, position: LogPosition
    ) -> AsyncGenerator[LogPiece, None]:
        """See the port."""
        runner = await self._home(workload)
        async with aclosing(runner.logs(workload, position)) as pieces:
            async for piece in pieces:
                yield piece

    async def stop(self, workload: Workload, grace: float) -> None:
        """See the port."""
        await (await self._home(workload)).stop(workload, grace)

    async def destroy(self, workload: Workload) -> None:
        """See the port."""
        await (await self._home(workload)).destroy(workload)
        self._homes.pop(workload.name, None)

    async def find(self, name: str) -> Workload | None:
        """See the port."""
        for runner in self._all:
            if (found := await runner.find(name)) is not None:
                self._homes[name] = runner
                return found
        return None

    async def owned(self) -> list[Workload]:
        """See the port."""
        found: list[Workload] = []
        for runner in self._all:
            own = await runner.owned()
            self._homes |= {workload.name: runner for workload in own}
            found += own
        return found
