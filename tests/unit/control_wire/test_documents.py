"""Documents: cached, limited, tolerant of newer clients."""

import contextlib
import json

import pytest
from graphql import GraphQLError, get_introspection_query
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.control.graphql.documents import Documents, declared_variables, operation_of
from agent.control.graphql.handler import Executor, GraphQLRequest
from agent.control.graphql.schema import build_schema
from agent.control.services.paging import page_size
from agent.model.errors import InvalidInputError

SCHEMA = build_schema()


@pytest.fixture
def documents():
    return Documents(SCHEMA, cache_size=3)


def test_a_text_is_parsed_once(documents):
    for _ in range(5):
        documents.get("{ viewer { id } }")
    assert documents.parsed == 1
    documents.get("{ viewer { id entity } }")
    assert documents.parsed == 2


def test_what_was_used_longest_ago_is_forgotten_first(documents):
    texts = [f"query Q{number} {{ viewer {{ id }} }}" for number in range(4)]
    for text in texts[:3]:
        documents.get(text)
    documents.get(texts[0])
    documents.get(texts[3])
    documents.get(texts[0])
    assert documents.parsed == 4
    documents.get(texts[1])
    assert documents.parsed == 5


def test_refused_documents_are_not_remembered(documents):
    for _ in range(2):
        with pytest.raises(GraphQLError):
            documents.get("{ nothing }")
    assert documents.parsed == 2
    assert not documents._cache


def _deep(levels: int) -> str:
    inside = "name"
    for _ in range(levels - 2):
        inside = f"ofType {{ {inside} }}"
    return f'{{ __type(name: "X") {{ {inside} }} }}'


def _fragment_deep() -> str:
    spreads = " ".join(f"fragment F{n} on __Type {{ ofType {{ ...F{n + 1} }} }}" for n in range(20))
    return f'{{ __type(name: "X") {{ ...F0 }} }} {spreads} fragment F20 on __Type {{ name }}'


def _flood() -> str:
    """Each fragment spreads the next one twice: a million fields in forty lines."""
    spreads = " ".join(
        f"fragment F{n} on User {{ ...F{n + 1} ... on User {{ ...F{n + 1} }} }}" for n in range(20)
    )
    return f"{{ viewer {{ ...F0 }} }} {spreads} fragment F20 on User {{ id }}"


def _aliases(count: int) -> str:
    return "{ " + " ".join(f"a{n}: viewer {{ id }}" for n in range(count)) + " }"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_deep(16), "levels deep"),
        (_fragment_deep(), "levels deep"),
        (_flood(), "fields"),
        (_aliases(31), "aliases"),
        (
            "mutation { "
            + " ".join(f'a{n}: stopLaunchItem(id: "x") {{ id }}' for n in range(1000))
            + " }",
            "tokens|aliases",
        ),
        ("{ viewer { " + "id " * 5000 + "} }", "token"),
        ("# x" + "y" * 300_000 + "\n{ viewer { id } }", "code points"),
        (" ".join(f"query Q{n} {{ viewer {{ id }} }}" for n in range(11)), "operations"),
        (
            "{ viewer { ...A } } fragment A on User { id ...B } fragment B on User { ...A }",
            "within itself",
        ),
        ("{ viewer { ...Missing } }", "Missing"),
        ("{ viewer {", "Syntax Error"),
        ("{" * 900, "Syntax Error|deeply"),
        ("query ($id: ID!) { launchItem(id: $id) { nothing } }", "Cannot query field"),
    ],
)
def test_documents_that_are_too_large_or_wrong_are_refused(documents, text, words):
    with pytest.raises(GraphQLError, match=words):
        documents.get(text)


def test_documents_at_the_limits_pass(documents):
    documents.get(_deep(15))
    documents.get(_aliases(30))
    documents.get(get_introspection_query())


def test_runspec_can_be_queried_where_clients_probe_for_it(documents):
    documents.get(
        "mutation ($i: PushToRunQueueByNameInput!) "
        "{ pushToRunQueueByName(input: $i) { runQueueItemId runSpec } }"
    )


def test_unknown_input_fields_in_the_text_are_dropped_with_their_variables(documents):
    checked = documents.get(
        "mutation P($q: ID!, $s: JSONString!, $new: String) { pushToRunQueue(input: "
        "{queueID: $q, runSpec: $s, invented: $new, deeper: {x: 1}}) { runQueueItemId } }"
    )
    assert operation_of(checked, "P").name.value == "P"


def test_unknown_input_fields_in_variables_are_dropped_at_any_depth(documents):
    checked = documents.get(
        "mutation ($input: RenewLaunchLeasesInput!) "
        "{ renewLaunchLeases(input: $input) { current } }"
    )
    lease = {"itemId": "i", "attempt": 1, "epoch": 2}
    values = {
        "input": {
            "agentId": "a",
            "leases": [lease | {"invented": 1}, None],
            "cloudRegionID": None,
        },
        "usedAs": "x",
    }
    operation = operation_of(checked, None)
    assert declared_variables(SCHEMA, operation, values) == {
        "input": {"agentId": "a", "leases": [lease, None]}
    }


STRICT = {
    "submitLaunchItem": ("SubmitLaunchItemInput", {"queueName": "q", "runSpec": {}}, "{ id }"),
    "saveLaunchQueue": ("SaveLaunchQueueInput", {"name": "q", "resource": "x"}, "{ id }"),
}


@pytest.mark.parametrize("field", STRICT)
async def test_unknown_fields_of_what_our_own_users_write_are_refused(documents, field):
    """A misspelt or forbidden field must not look as if it had been taken."""
    kind, values, selection = STRICT[field]
    written = ", ".join(f"{name}: {json.dumps(value)}" for name, value in values.items())
    with pytest.raises(GraphQLError, match="invented"):
        documents.get(f"mutation {{ {field}(input: {{{written}, invented: 1}}) {selection} }}")
    asked = f"mutation ($input: {kind}!) {{ {field}(input: $input) {selection} }}"
    given = {"input": values | {"invented": 1}}
    response = await Executor(SCHEMA).run(GraphQLRequest(asked, given, None), None)
    assert "invented" in response["errors"][0]["message"]
    assert response["errors"][0]["extensions"]["code"] == "INVALID_INPUT"


def test_a_single_value_stands_for_a_list_of_one(documents):
    checked = documents.get("query ($p: [LaunchPhase!]) { launchItems(phases: $p) { totalCount } }")
    assert declared_variables(SCHEMA, operation_of(checked, None), {"p": "QUEUED"}) == {
        "p": "QUEUED"
    }


def test_json_values_are_not_looked_into(documents):
    checked = documents.get(
        "mutation ($input: SubmitLaunchItemInput!) { submitLaunchItem(input: $input) { id } }"
    )
    values = {"input": {"queueName": "q", "runSpec": {"anything": {"at": "all"}}}}
    assert declared_variables(SCHEMA, operation_of(checked, None), values) == values


def test_an_operation_is_found_by_name_or_by_being_the_only_one(documents):
    two = documents.get("query A { viewer { id } } query B { viewer { id } }")
    assert operation_of(two, "B").name.value == "B"
    for name in (None, "C"):
        with pytest.raises(GraphQLError, match="no single operation"):
            operation_of(two, name)


@pytest.mark.parametrize("asked", [1, 5000])
def test_pages_up_to_five_thousand(asked):
    assert page_size(asked) == asked


@pytest.mark.parametrize("asked", [-1, 0, 5001])
def test_other_pages_are_refused(asked):
    with pytest.raises(InvalidInputError, match=str(asked)):
        page_size(asked)


_NAMES = st.sampled_from(["id", "viewer", "a", "...A", "on", "fragment A on User", "query"])
_PARTS = st.lists(_NAMES | st.sampled_from(list('{}()[]:$!@"\\&|=')), max_size=60)


@settings(max_examples=200, deadline=None)
@given(_PARTS.map(" ".join) | st.text())
def test_any_text_is_answered_with_a_document_or_an_error_of_the_language(text):
    with contextlib.suppress(GraphQLError):
        Documents(SCHEMA).get(text)
