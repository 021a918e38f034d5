"""The control plane as a caller of its own services: for figures and for cleaning up."""

from typing import Final

from agent.control.services.policy import Kind, Principal

#: Reads every entity. No key and no cookie leads to it.
ITSELF: Final = Principal(
    kind=Kind.USER, key_id="", name="control plane", default_entity="", admin=True
)
