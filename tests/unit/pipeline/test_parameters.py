"""A run's parameters as a file."""

import json
from pathlib import Path

from agent.pipeline.parameters import parameters_of
from tests.unit.pipeline.claims import claim

SPEC = {"overrides": {"run_config": {"lr": 0.1, "name": "é"}}}


def test_containers_see_the_parameters_at_a_fixed_place_read_only(tmp_path: Path) -> None:
    made = parameters_of(claim(SPEC), tmp_path, containers=True)
    (mount,) = made.mounts
    assert made.environment == {"LAUNCH_CONFIG_FILE": "/run/launch/config.json"}
    assert (mount.target, mount.read_only) == ("/run/launch/config.json", True)
    assert json.loads(mount.source.read_text()) == {"lr": 0.1, "name": "é"}
    assert mount.source.stat().st_mode & 0o777 == 0o444


def test_processes_are_told_where_the_file_lies_and_a_second_try_writes_it_again(
    tmp_path: Path,
) -> None:
    parameters_of(claim(SPEC), tmp_path, containers=False)
    made = parameters_of(claim({"overrides": {"run_config": {"a": 1}}}), tmp_path, containers=False)
    assert made.mounts == ()
    assert json.loads(Path(made.environment["LAUNCH_CONFIG_FILE"]).read_text()) == {"a": 1}


def test_without_parameters_there_is_no_file(tmp_path: Path) -> None:
    made = parameters_of(claim(), tmp_path, containers=True)
    assert (made.environment, made.mounts, list(tmp_path.iterdir())) == ({}, (), [])
