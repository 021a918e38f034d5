"""Type trees as W&B's client builds them at a run's end."""

import json

from hypothesis import given
from hypothesis import strategies as st

from agent.model.job.job_file import type_tree

NUMBER = {"wb_type": "number"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def table(**types: object) -> dict[str, object]:
    return {"wb_type": "typedDict", "params": {"type_map": types}}


def listed(element: object, length: int) -> dict[str, object]:
    return {"wb_type": "list", "params": {"element_type": element, "length": length}}


def test_a_recorded_configuration():
    config = {"lr": 0.1, "epochs": 10, "nested": {"a": 1}, "_wandb": {"m": []}}
    assert type_tree(config) == table(lr=NUMBER, epochs=NUMBER, nested=table(a=NUMBER))


def test_only_the_clients_own_notes_are_left_out():
    assert type_tree({"_step": 1, "_wandb": 2}) == table(_step=NUMBER)


def test_each_kind():
    values = {"s": "x", "b": True, "n": None, "o": object()}
    kinds = {"s": "string", "b": "boolean", "n": "none", "o": "unknown"}
    assert type_tree(values) == table(**{key: {"wb_type": kind} for key, kind in kinds.items()})


def test_lists():
    assert type_tree([]) == listed({"wb_type": "unknown"}, 0)
    assert type_tree([1, 2.0]) == listed(NUMBER, 2)
    assert type_tree((1,)) == listed(NUMBER, 1)


def test_a_list_of_several_kinds_is_a_union_of_each_once():
    allowed = [{"wb_type": "none"}, NUMBER, {"wb_type": "string"}]
    union = {"wb_type": "union", "params": {"allowed_types": allowed}}
    assert type_tree(["a", 1, None, 2]) == listed(union, 4)


@given(JSON)
def test_every_value_has_one_tree_that_can_be_stored(value: object):
    tree = type_tree(value)
    assert json.loads(json.dumps(tree)) == tree == type_tree(value)


def test_a_value_of_any_depth_has_a_tree():
    value: object = 1
    for _ in range(5000):
        value = [value]
    assert json.dumps(type_tree(value)).count("list") == 100
