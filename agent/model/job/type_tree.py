"""Type trees: what kind of value stands where in a run's configuration or summary.

    {"wb_type": "typedDict", "params": {"type_map": {"lr": {"wb_type": "number"}}}}

They are built as W&B's client builds them at a run's end. A list of several kinds becomes a
union; the client writes its members in no order, here they are sorted by kind.
"""

from typing import Any, Final

Tree = dict[str, Any]

#: The client's own notes inside a configuration; no parameter.
_NOTES: Final = "_wandb"


def type_tree(value: object) -> Tree:
    """The tree of a JSON value; anything else is `unknown`."""
    match value:
        case dict():
            types = {str(key): type_tree(each) for key, each in value.items() if key != _NOTES}
            return {"wb_type": "typedDict", "params": {"type_map": types}}
        case list() | tuple():
            params = {"element_type": _element([*value]), "length": len(value)}
            return {"wb_type": "list", "params": params}
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


def _element(values: list[object]) -> Tree:
    """One kind: the last value's tree speaks for all; several: a union of one tree each."""
    kinds = {tree["wb_type"]: tree for tree in map(type_tree, values)}
    match len(kinds):
        case 0:
            return {"wb_type": "unknown"}
        case 1:
            return next(iter(kinds.values()))
        case _:
            allowed = [kinds[kind] for kind in sorted(kinds)]
            return {"wb_type": "union", "params": {"allowed_types": allowed}}
