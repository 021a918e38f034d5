"""Type trees: what kind of value stands where in a run's configuration or summary.

    {"wb_type": "typedDict", "params": {"type_map": {"lr": {"wb_type": "number"}}}}

They are built as W&B's client builds them at a run's end. A list of several kinds becomes a
union; the client writes its members in no order, here they are sorted by kind.
"""

from typing import Any, Final

Tree = dict[str, Any]

#: The client's own notes inside a configuration; no parameter.
_NOTES: Final = "_wandb"
#: Values nested deeper are described no further, so that any value can be described.
_DEEPEST: Final = 100


def type_tree(value: object) -> Tree:
    """The tree of a JSON value; anything else, and what lies too deep, is `unknown`."""
    return _tree(value, 0)


def _tree(value: object, depth: int) -> Tree:
    match value:
        case dict() | list() | tuple() if depth >= _DEEPEST:
            return {"wb_type": "unknown"}
        case dict():
            named = ((str(key), each) for key, each in value.items() if key != _NOTES)
            types = {key: _tree(each, depth + 1) for key, each in named}
            return {"wb_type": "typedDict", "params": {"type_map": types}}
        case list() | tuple():
            element = _element([_tree(each, depth + 1) for each in value])
            return {"wb_type": "list", "params": {"element_type": element, "length": len(value)}}
        case _:
            return {"wb_type": _kind(value)}


def _kind(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case _:
            return "unknown"


def _element(trees: list[Tree]) -> Tree:
    """One kind: the last value's tree speaks for all; several: a union of one tree each."""
    kinds = {tree["wb_type"]: tree for tree in trees}
    match [kinds[kind] for kind in sorted(kinds)]:
        case []:
            return {"wb_type": "unknown"}
        case [only]:
            return only
        case allowed:
            return {"wb_type": "union", "params": {"allowed_types": allowed}}
