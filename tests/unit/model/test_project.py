"""Names of projects."""

import pytest

from agent.model.errors import InvalidInputError
from agent.model.names import checked_project


@pytest.mark.parametrize("name", ["demo", "Ünï x", "a.b-c_d", "x" * 128])
def test_names_with_a_page_and_a_reference_are_taken(name: str) -> None:
    assert checked_project(name) == name


@pytest.mark.parametrize(
    "name",
    ["", " a", "a ", ".", "..", "a/b", "a\\b", "a:b", "a#b", "a?b", "a%b", "a\nb", "x" * 129],
)
def test_names_that_no_reference_or_address_can_hold_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot be the name of a project"):
        checked_project(name)
