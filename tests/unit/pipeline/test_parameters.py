"""A run's parameters as a file."""

import json

from agent.pipeline.job_variables import injected_into
from tests.unit.pipeline.claims import claim

SPEC = {"overrides": {"run_config": {"lr": 0.1, "name": "é"}}}
FILE = "/run/launch/config.json"


def test_parameters_are_a_file_and_a_variable_that_names_it() -> None:
    made = injected_into(claim(SPEC), {}, {})
    assert made.file_variables == {"LAUNCH_CONFIG_FILE": FILE}
    assert json.loads(made.files[FILE]) == {"lr": 0.1, "name": "é"}


def test_without_parameters_there_is_no_file() -> None:
    made = injected_into(claim(), {}, {})
    assert (made.environment, made.files, made.file_variables, made.mounts) == ({}, {}, {}, ())
