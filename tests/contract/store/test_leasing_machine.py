"""Any order of events keeps the promises; examples are the same in each run."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import text

from agent.config.control import ControlConfig
from agent.control.store.tables import metadata
from tests.contract.store.leasing_machine import Campaign

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
        tables = ", ".join(table.name for table in metadata.sorted_tables)
        if config.database_url is not None:
            machine.runner.run(
                machine.world.plane.database.write(lambda tx: tx.run(text(f"TRUNCATE {tables}")))
            )


def test_promises_hold_in_any_order_of_events(store_config: ControlConfig) -> None:
    _run(store_config, EXAMPLES, same=True)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_promises_hold_in_very_many_orders_of_events(store_config: ControlConfig) -> None:
    _run(store_config, 500, same=False)
