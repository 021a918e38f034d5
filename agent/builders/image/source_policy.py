"""What BuildKit may fetch for one build: nothing but what the plan names and the agent allows.

BuildKit fetches base images, `ADD <URL>`, Git contexts and the frontend of `# syntax=` itself,
from the engine's network and past every check of ours; hence its source policy denies
everything, and allows what was found in the Dockerfile and checked. An image that
`named_images` does not find is denied.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from agent.builders.image.references import NAMESPACE, is_reference, read_reference
from agent.config.execution import BuilderConfig
from agent.model.cause import Cause
from agent.model.errors import PolicyError
from agent.model.job.image_reference import ImageReference

#: BuildKit looks at the first lines only, and at three kinds of comment; this finds more.
_SYNTAX: Final = re.compile(
    r"^[\s\ufeff]*(?:#|//)\s*syntax\s*=\s*(\S+)", re.IGNORECASE | re.MULTILINE
)
_JSON_SYNTAX: Final = re.compile(r"\A(?:[\s\ufeff]*#![^\n]*\n)?[\s\ufeff]*\{")


def frontends(text: str, config: BuilderConfig) -> tuple[str, ...]:
    """Images that interpret a Dockerfile (`# syntax=`): programs with access to the whole build.

    Raises:
        PolicyError: `POLICY_SOURCE`: one that the administrator does not allow.
    """
    named = _SYNTAX.findall(text)
    if _JSON_SYNTAX.match(text):
        named.append("JSON")
    allowed = {identifier(read_reference(name)) for name in config.frontends}
    for name in named:
        if not is_reference(name) or identifier(read_reference(name)) not in allowed:
            raise PolicyError(
                Cause.POLICY_SOURCE,
                f"The Dockerfile's frontend `# syntax={name}` is not allowed.",
                hint=f"Allowed: {', '.join(config.frontends)} (`builder.frontends`).",
            )
    return tuple(named)


def source_policy(
    images: Iterable[str], interpreters: Iterable[str], config: BuilderConfig
) -> Mapping[str, Any]:
    """The document for BuildKit; the last rule that matches counts."""
    rules = [_rule("DENY", "*"), _rule("ALLOW", "local://*")]
    rules += [_rule("ALLOW", pattern) for url in config.add_urls for pattern in _patterns(url)]
    for name in (*images, *interpreters):
        image = identifier(read_reference(name))
        rules += [_rule("ALLOW", f"{image}:*"), _rule("ALLOW", f"{image}@*")]
    # Images that were built for other jobs, wherever they are.
    rules.append(_rule("DENY", f"docker-image://{NAMESPACE}*"))
    if config.destination is not None:
        pushed = identifier(read_reference(config.destination))
        rules += [_rule("DENY", f"{pushed}:*"), _rule("DENY", f"{pushed}@*")]
    return {"rules": rules}


def identifier(image: ImageReference) -> str:
    """BuildKit's name for a repository."""
    if not image.on_docker_hub:
        return f"docker-image://{image.host}/{image.path}"
    return f"docker-image://docker.io/{'' if '/' in image.path else 'library/'}{image.path}"


def _patterns(url: str) -> Iterator[str]:
    """A URL of `builder.add_urls`, and the same as a Git repository."""
    yield url
    if url.startswith("https://"):
        yield f"git://{url.removeprefix('https://')}"


def _rule(action: str, pattern: str) -> dict[str, Any]:
    return {"action": action, "selector": {"identifier": pattern, "matchType": "WILDCARD"}}
