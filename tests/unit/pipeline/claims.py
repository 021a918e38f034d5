"""Claims and jobs for tests of single stages."""

from dataclasses import replace
from typing import Any

from agent.model.capacity import Allocation
from agent.model.phase import Phase
from agent.model.spec import parse_spec
from agent.model.work import Claim, Lease


def claim(spec: dict[str, Any] | None = None, **changes: Any) -> Claim:
    made = Claim(
        lease=Lease("item", 1, 1),
        phase=Phase.LEASED,
        entity="people",
        project="things",
        queue="gpu",
        run_name="run00001",
        name="a name",
        author="ann",
        resource="local-container",
        spec=parse_spec(spec or {}),
        layers={},
        allocation=Allocation(),
        run_token="launchrun-token",
        stop_requested=False,
    )
    return replace(made, **changes)
