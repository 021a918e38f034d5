"""The operations that an agent sends; `agent/control/graphql/schema.graphql` explains them."""

from typing import Final

_CLAIM: Final = """
fragment claim on LaunchClaim {
  itemId attempt epoch phase entityName projectName queueName runName name author priority
  resource runSpec layers cpus memory gpus runToken stopRequested createdAt
}
"""

FEATURES: Final = "query AgentFeatures { serverInfo { features { name isEnabled } } }"

REGISTER: Final = (
    """
mutation RegisterAgent($input: RegisterLaunchAgentInput!) {
  registerLaunchAgent(input: $input) {
    agent { id name entityName } controlPlaneId heartbeatSeconds leaseSeconds held { ...claim }
  }
}
"""
    + _CLAIM
)

CLAIM: Final = (
    """
mutation ClaimItems($input: ClaimLaunchItemsInput!) {
  claimLaunchItems(input: $input) { ...claim }
}
"""
    + _CLAIM
)

RENEW: Final = """
mutation RenewLeases($input: RenewLaunchLeasesInput!) {
  renewLaunchLeases(input: $input) { leases { itemId answer } current stop }
}
"""

COMMANDS: Final = """
query AgentOrders($agentId: ID!, $session: String!, $seen: String, $waitSeconds: Int) {
  launchCommands(agentId: $agentId, session: $session, seen: $seen, waitSeconds: $waitSeconds)
}
"""

ADVANCE: Final = """
mutation AdvanceItem($input: AdvanceLaunchItemInput!) {
  advanceLaunchItem(input: $input) { answer }
}
"""

PERMIT: Final = """
mutation PermitStart($input: LeaseInput!) { permitLaunchStart(input: $input) { answer } }
"""

FINISH: Final = """
mutation FinishItem($input: FinishLaunchItemInput!) { finishLaunchItem(input: $input) { answer } }
"""

RELEASE: Final = """
mutation ReleaseItem($input: ReleaseLaunchItemInput!) {
  releaseLaunchItem(input: $input) { answer }
}
"""

STANDING: Final = """
query ItemStanding($id: ID!) { launchItem(id: $id) { attempt phase } }
"""
