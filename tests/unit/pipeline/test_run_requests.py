"""What a runner is told about a manifest's other layers."""

from pathlib import Path
from typing import Any

import pytest

from agent.model.capacity import Demand
from agent.model.spec import Json
from agent.model.work import Image, Resolved
from agent.pipeline.job_variables import Injected
from agent.pipeline.start import run_request
from agent.ports.runner import RunRequest
from tests.unit.pipeline.claims import claim


def request_of(spec: Json, layers: dict[str, Json], image: str | None = None) -> RunRequest:
    resolved = Resolved(
        claim=claim(spec, layers=layers, resource="kubernetes"),
        tree=None, image=image, command=("run",), args=(), build_context=".", dockerfile=None,
        base_image=None, python=None, environment={},
    )  # fmt: skip
    return run_request(
        resolved, Image("built@1", "digest", reused=True), Injected(),
        name="n", control_plane_id="c", folder=Path(),
    )  # fmt: skip


def test_the_queues_template_goes_along_with_its_macros_expanded() -> None:
    template = {"kind": "Job", "spec": {"a": "${run_id} ${image_uri}"}}
    layers = {"queue": {"resource_args": {"kubernetes": template, "local-container": {"x": 1}}}}
    assert request_of({}, layers).template == {"kind": "Job", "spec": {"a": "run00001 built@1"}}
    assert request_of({}, {}).template == {}


def test_what_resources_ask_for_goes_along_whatever_was_allocated() -> None:
    spec = {"resources": {"cpus": 2, "memory": "1GiB", "gpus": 1}}
    assert request_of(spec, {}).demand == Demand(2, 1 << 30, 1)


@pytest.mark.parametrize(
    ("layer", "overrides"), [("queue", True), ("submitter", True), ("job", False)]
)
def test_a_jobs_own_command_overrides_nothing(layer: str, *, overrides: bool) -> None:
    layers: dict[str, Any] = {layer: {"overrides": {"entry_point": ["run"]}}}
    assert request_of({}, layers).command_overrides is overrides


def test_an_image_job_says_that_it_brings_its_image() -> None:
    assert request_of({}, {}, "org/app:1").brings_image
    assert not request_of({}, {}).brings_image
