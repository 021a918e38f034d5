"""Any order of events keeps the promises; examples are the same in each run."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from agent.config.control import ControlConfig
from tests.contract.store.leasing_machine import Campaign
from tests.contract.store.world import remove_all_rows

EXAMPLES, STEPS = 30, 60


def _run(config: ControlConfig, examples: int, *, same: bool) -> None:
    with Campaign(config) as machine:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=STEPS,
                deadline=None,
                # Explaining traces every line, which takes minutes.
                phases=(Phase.generate,),
                derandomize=same,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        if config.database_url is not None:
            machine.runner.run(machine.world.plane.database.write(remove_all_rows))


def test_promises_hold_in_any_order_of_events(store_config: ControlConfig) -> None:
    _run(store_config, EXAMPLES, same=True)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_promises_hold_in_very_many_orders_of_events(store_config: ControlConfig) -> None:
    _run(store_config, 500, same=False)
