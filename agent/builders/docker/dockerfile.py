"""The generated Dockerfile: a pure function, tested by golden files.

Packages are installed before the code is copied, so that a change of code reuses their
layer. Nothing secret is written into it: indexes and certificates are secret mounts.
"""

import json
from dataclasses import dataclass
from typing import Final

#: Name of the build context that brings uv, the script and the requirements.
CONTEXT: Final = "launch"
#: Where the code lies and the job starts.
WORKDIR: Final = "/home/launch/src"
INDEX_URL: Final = "launch_index_url"
EXTRA_INDEX_URLS: Final = "launch_extra_index_urls"
CA_BUNDLE: Final = "launch_ca"
#: Step that a failed installation is recognised by.
INSTALL_STEP: Final = "/run/launch/install.sh"

_MOUNTS: Final = " \\\n    ".join(
    (
        f"--mount=type=bind,from={CONTEXT},target=/run/launch",
        "--mount=type=cache,id=launch-uv,target=/root/.cache/uv",
        f"--mount=type=secret,id={INDEX_URL}",
        f"--mount=type=secret,id={EXTRA_INDEX_URLS}",
        f"--mount=type=secret,id={CA_BUNDLE}",
    )
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a generated image is made of."""

    base_image: str
    user_id: int
    command: tuple[str, ...]
    #: Packages in the code, as uv takes them: `./lib`, `-e .`; relative to the context.
    local: tuple[tuple[str, ...], ...] = ()
    #: Put into an accelerator's image where that has no Python.
    python: str | None = None


def dockerfile(recipe: Recipe) -> str:
    """The text of the Dockerfile."""
    user = f"{recipe.user_id}:{recipe.user_id}"
    lines = [
        f"FROM {recipe.base_image}",
        "USER 0:0",
        "ENV PYTHONUNBUFFERED=1",
        *([_step("python", recipe.python)] if recipe.python else []),
        _step("base", str(recipe.user_id)),
        f"WORKDIR {WORKDIR}",
        f"COPY --chown={user} . .",
    ]
    if recipe.local:
        words = [word for package in recipe.local for word in package]
        argv = json.dumps(["sh", INSTALL_STEP, "local", *words])
        lines.append(f"RUN {_MOUNTS} \\\n    {argv}")
    lines.append(f"USER {user}")
    if recipe.command:
        lines.append(f"ENTRYPOINT {json.dumps(list(recipe.command))}")
    return "\n".join(lines) + "\n"


def _step(*words: str) -> str:
    """One run of the script, with its mounts."""
    return f"RUN {_MOUNTS} \\\n    sh {INSTALL_STEP} {' '.join(words)}"
