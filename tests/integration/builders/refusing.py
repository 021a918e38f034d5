"""Builds that end with an error."""

import pytest

from agent.model.errors import JobError


async def refused(builder, request, build):
    """The error of a build; `build` is the fixture."""
    with pytest.raises(JobError) as caught:
        await build(builder, request)
    return caught.value
