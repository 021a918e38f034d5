"""Keys that a submitter gives to the run (`_wandb_api_key`): stored encrypted, shown masked."""

import json
from typing import Any, Final

import structlog

from agent.control.auth.signing import SigningKeys
from agent.control.store import accounts, items
from agent.control.store.tx import AnyRow, Tx
from agent.model.spec import Json

#: Layers of a claim that are given the keys: where the submitter wrote them.
_LAYER: Final = "submitter"


def encrypted(keys: SigningKeys, run_spec: Json) -> bytes | None:
    """The column with the keys of a submission; `None` where it has none."""
    found = {name: run_spec[name] for name in items.SECRET_KEYS if run_spec.get(name)}
    return keys.encrypt(json.dumps(found).encode()) if found else None


def with_keys(keys: SigningKeys, item: AnyRow) -> dict[str, Any]:
    """`run_spec` and `layers` of an item as its agent gets them."""
    if item.secrets is None:
        return {"run_spec": item.run_spec, "layers": item.layers}
    text = keys.decrypt(item.secrets)
    if text is None:
        # The run gets its own token instead; the submission could only be made again.
        structlog.get_logger().error("the keys of a submission cannot be decrypted", item=item.id)
        bare = {key: one for key, one in item.run_spec.items() if key not in items.SECRET_KEYS}
        return {"run_spec": bare, "layers": item.layers}
    found = json.loads(text)
    layers = {**item.layers, _LAYER: {**item.layers.get(_LAYER, {}), **found}}
    return {"run_spec": {**item.run_spec, **found}, "layers": layers}


def encrypt_again(tx: Tx, keys: SigningKeys) -> None:
    """After a rotation: encrypt by the current key what an earlier one has, and record the key."""
    for row in items.with_secrets(tx):
        text = keys.decrypt(row.secrets)
        if text is not None:
            items.set_secrets(tx, row.id, keys.encrypt(text))
    accounts.set_signing_key_id(tx, keys.ids[0])
