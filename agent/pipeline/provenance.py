"""Which layer set each field of a launch spec: submitter, queue template, job, or the agent."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agent.model.spec import Json
from agent.model.work import Claim
from agent.pipeline.masking import masked_value

#: First match counts: a submitter's word wins where the layers above allow it.
_LAYERS: Final = ("submitter", "job", "queue")
#: Keys of a spec that describe the item, not the run.
_LEFT_OUT: Final = frozenset({"template_variables"})
Place = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """One field, its value, and who set it."""

    path: str
    value: Any
    #: `submitter`, `queue`, `job`, `control plane`, `agent`, `source` (a file of it) or
    #: `runtime`.
    layer: str


def settings_of(claim: Claim) -> tuple[Setting, ...]:
    """Every field that somebody set, in the order of paths; secrets are masked."""
    spec = claim.spec.model_dump(mode="json", exclude_defaults=True, by_alias=True)
    spec["resource"] = claim.resource
    leaves = {place: value for place, value in _leaves(spec) if place[0] not in _LEFT_OUT}
    return tuple(
        Setting(".".join(place), masked_value(leaves[place], place[-1]), layer)
        for place in sorted(leaves)
        for layer in [_layer(claim.layers, place, leaves[place])]
    )


def _layer(layers: Mapping[str, Json], place: Place, value: object) -> str:
    """The strongest layer that says exactly this, else the strongest that says anything."""
    said = {name: _at(layers.get(name) or {}, place) for name in _LAYERS}
    for name in _LAYERS:
        if said[name] is not None and said[name] == value:
            return name
    return next((name for name in _LAYERS if said[name] is not None), "control plane")


def _at(layer: Json, place: Place) -> Any:
    found: Any = layer
    for part in place:
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _leaves(value: Json, above: Place = ()) -> Iterator[tuple[Place, Any]]:
    for key, inner in value.items():
        place = (*above, str(key))
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, place)
        elif inner is not None and inner != {}:
            yield place, inner
