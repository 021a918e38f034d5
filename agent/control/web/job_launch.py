"""The form that launches a job again: drawn, read, and put on a queue."""

import hashlib
import json
import secrets
from dataclasses import dataclass, replace
from typing import Final

from agent.control.auth.policy import Principal
from agent.control.services.plane import Plane
from agent.control.store.artifact_records import JobVersion
from agent.control.store.records import ItemRecord, Submission
from agent.control.web.job_fields import Field, fields_of, without_fields
from agent.control.web.job_form import (
    OTHERS,
    VARIABLES,
    Sent,
    read_object,
    read_parameters,
)
from agent.control.web.job_present import last_config, schema_of, types_of
from agent.control.web.present import pretty
from agent.model.errors import LaunchError
from agent.model.spec import Json

QUEUE: Final = "queue"
NAME: Final = "name"
TOKEN: Final = "token"  # noqa: S105 -- a field's name


@dataclass(frozen=True, slots=True)
class Form:
    """The form as its page draws it."""

    #: New for each form that is shown: sending one twice launches once.
    token: str
    queues: tuple[str, ...]
    queue: str
    name: str
    fields: tuple[Field, ...]
    others: str
    variables: str = ""
    others_error: str | None = None
    variables_error: str | None = None
    #: What the control plane said, and what to do.
    refusal: str | None = None
    hint: str | None = None

    @property
    def wrong(self) -> bool:
        """Whether something is wrong beside a field."""
        told = (self.others_error, self.variables_error, *(field.error for field in self.fields))
        return any(told)


def empty_form(version: JobVersion, queues: tuple[str, ...], last: ItemRecord | None) -> Form:
    """The form with what was launched last in it."""
    config = last_config(last)
    fields = fields_of(schema_of(version), types_of(version), config)
    rest = without_fields(fields, config)
    queue = last.queue if last is not None else "default"
    return Form(
        token=secrets.token_hex(8),
        queues=queues,
        queue=queue if queue in queues else next(iter(queues), ""),
        name=version.artifact.collection.name,
        fields=fields,
        others=pretty(rest) if rest else "",
    )


async def launch(
    plane: Plane, principal: Principal, version: JobVersion, form: Form, sent: Sent
) -> ItemRecord | Form:
    """Put the job on a queue as the form asks; gives the form with its errors when it cannot."""
    schema = schema_of(version)
    parameters = read_parameters(form.fields, schema, sent)
    variables, variables_error = read_object(sent.text(VARIABLES))
    read = replace(
        form,
        queue=sent.text(QUEUE),
        name=sent.text(NAME),
        fields=parameters.fields,
        others=sent.text(OTHERS),
        variables=sent.text(VARIABLES),
        others_error=parameters.others_error,
        variables_error=variables_error,
    )
    if read.wrong:
        return read
    wanted = _submission(version, read, parameters.config, variables, sent.text(TOKEN))
    try:
        return await plane.items.submit(principal, wanted)
    except LaunchError as error:
        return replace(read, refusal=error.message, hint=error.hint)


def _submission(
    version: JobVersion, form: Form, config: Json, variables: Json, token: str
) -> Submission:
    collection = version.artifact.collection
    spec: Json = {"job": version.reference, "overrides": {"run_config": config}}
    if form.name:
        spec["name"] = form.name
    asked = json.dumps([token, form.queue, spec, variables], sort_keys=True)
    return Submission(
        entity=collection.entity,
        project=collection.project,
        queue=form.queue,
        run_spec=spec,
        template_variables=variables,
        idempotency_key=f"form-{hashlib.sha256(asked.encode()).hexdigest()}",
    )
