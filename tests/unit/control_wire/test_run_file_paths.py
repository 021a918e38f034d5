"""The paths of runs' files."""

import pytest

from agent.control.files.run_files import checked_run_file
from agent.model.errors import InvalidInputError


def test_the_length_of_a_path_is_that_of_its_shortest_form():
    assert checked_run_file("./" * 120 + "media/a.png") == "media/a.png"


def test_a_path_that_is_too_long_in_its_shortest_form_is_refused():
    with pytest.raises(InvalidInputError, match="more than 240 characters"):
        checked_run_file("a/" * 80)
