import pytest
from jinja2 import Environment
from markupsafe import Markup

from agent.control.web import filters
from agent.model.phase import Phase


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "just now"),
        (4.9, "just now"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (86399, "23 h ago"),
        (86400, "1 day ago"),
        (200000, "2 days ago"),
    ],
)
def test_ages_are_rounded_to_one_unit(seconds, text):
    assert filters.age(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")]
)
def test_durations_have_at_most_two_units(seconds, text):
    assert filters.length(seconds) == text


def test_every_phase_has_a_tone_of_the_style_sheet():
    assert {filters.tone(phase) for phase in Phase} == {"idle", "busy", "good", "warn", "bad"}


def test_a_remedy_shows_commands_as_code_and_escapes_everything():
    shown = filters.commands("Start <one>: `launch-agent --queue <q>`.")

    expected = "Start &lt;one&gt;: <code>launch-agent --queue &lt;q&gt;</code>."
    assert shown == Markup(expected)  # noqa: S704 -- the expectation is written here


def test_names_of_any_kind_make_one_path_segment_each():
    assert filters.queue_url("a/b", "q?#ü") == "/launch/queues/a%2Fb/q%3F%23%C3%BC"


def test_an_unknown_priority_is_shown_as_it_is():
    assert [filters.priority(n) for n in (0, 3, 7)] == ["critical", "low", "7"]


def test_every_filter_that_templates_use_exists():
    environment = Environment(autoescape=True)
    environment.filters.update(filters.all_filters())

    assert environment.from_string("{{ p | tone }}").render(p=Phase.FAILED) == "bad"
