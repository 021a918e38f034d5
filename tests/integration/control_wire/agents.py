"""An agent of ours, as far as a test needs one."""

from dataclasses import dataclass
from typing import Any

from tests.integration.control_wire.wire import Caller

REGISTER = """mutation ($input: RegisterLaunchAgentInput!) { registerLaunchAgent(input: $input) {
  agent { id name entityName queueNames capacity } controlPlaneId heartbeatSeconds leaseSeconds
  held { itemId } } }"""
CLAIM = """mutation ($input: ClaimLaunchItemsInput!) { claimLaunchItems(input: $input) {
  itemId attempt epoch phase entityName projectName queueName runName name author resource
  runSpec layers cpus memory gpus runToken stopRequested } }"""


SUBMIT = "mutation ($i: SubmitLaunchItemInput!) { submitLaunchItem(input: $i) { id } }"


@dataclass(slots=True)
class Agent:
    """A registered process."""

    caller: Caller
    id: str
    session: str
    welcome: dict[str, Any]

    @classmethod
    async def register(
        cls, caller: Caller, entity: str, *queues: str, name: str = "box"
    ) -> "Agent":
        given = {
            "entityName": entity,
            "name": name,
            "hostname": "host",
            "queueNames": list(queues),
            "identity": f"identity-{name}",
            "session": f"session-{name}",
            "resources": ["local-process", "local-container"],
            "capacity": {"slots": 4, "memory": 2**40, "gpus": ["0", "1"]},
            "config": {"max_jobs": 4},
        }
        welcome = (await caller.data(REGISTER, input=given))["registerLaunchAgent"]
        return cls(caller, welcome["agent"]["id"], given["session"], welcome)

    def claim_input(self, request: str, wait: int = 0, **more: Any) -> dict[str, Any]:
        return {
            "agentId": self.id,
            "session": self.session,
            "requestId": request,
            "free": {"slots": 4, "memory": 2**40, "gpus": ["0", "1"]},
            "waitSeconds": wait,
        } | more

    async def claim(self, request: str = "r1", wait: int = 0) -> list[dict[str, Any]]:
        data = await self.caller.data(CLAIM, input=self.claim_input(request, wait))
        return data["claimLaunchItems"]

    def lease(self, claim: dict[str, Any]) -> dict[str, Any]:
        named = {name: claim[name] for name in ("itemId", "attempt", "epoch")}
        return {"agentId": self.id} | named

    async def write(self, field: str, kind: str, claim: dict[str, Any], **more: Any) -> str:
        text = f"mutation ($input: {kind}!) {{ {field}(input: $input) {{ itemId status }} }}"
        data = await self.caller.data(text, input=self.lease(claim) | more)
        assert data[field]["itemId"] == claim["itemId"]
        return data[field]["status"]


async def submitted_and_claimed(caller: Caller, spec: dict[str, Any]) -> tuple[Agent, Any]:
    """An agent of ann's default queue, and its claim of one item of this spec."""
    await caller.data(SUBMIT, i={"queueName": "default", "runSpec": spec})
    agent = await Agent.register(caller, "ann", "default")
    (claim,) = await agent.claim()
    return agent, claim
