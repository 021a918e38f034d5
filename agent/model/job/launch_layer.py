"""A job's layer of a launch spec: what its job file sets for every launch."""

from typing import Any

from agent.model.job.entry_point import script_of
from agent.model.job.job_file import (
    JobArtifactSource,
    JobFile,
    JobImageSource,
    JobRepoSource,
    JobSource,
)

Json = dict[str, Any]


def launch_layer(job: JobFile, reference: str) -> Json:
    """The job's fields under the launch spec's own paths; `reference` names its version.

    The entry point of a notebook is left out: the agent converts the notebook and takes the
    command from the job file, while W&B's agents would run these words as they are.
    """
    layer: Json = {"job": reference, "source": _source(job.source)}
    build = _build(job)
    if build:
        layer["build"] = build
    overrides = _overrides(job.source)
    if overrides:
        layer["overrides"] = overrides
    return layer


def _source(source: JobSource) -> Json:
    match source:
        case JobRepoSource(git=git):
            # W&B's agent always fetches submodules; a job may say that it needs none.
            wanted = git.submodules is not False
            lfs = {"lfs": True} if git.lfs else {}
            return {
                "type": "git", "url": git.remote, "ref": git.commit, "submodules": wanted, **lfs,
            }  # fmt: skip
        case JobArtifactSource(artifact=artifact):
            return {"type": "artifact", "artifact": artifact}
        case JobImageSource(image=image):
            return {"type": "image", "image": image}


def _build(job: JobFile) -> Json:
    source = job.source
    if isinstance(source, JobImageSource):
        return {}
    found = {
        "build_context": source.build_context,
        "dockerfile": source.dockerfile,
        "base_image": source.base_image,
        "python": job.runtime,
    }
    return {key: value for key, value in found.items() if value}


def _overrides(source: JobSource) -> Json:
    if isinstance(source, JobImageSource):
        found = {"entry_point": source.entrypoint, "args": source.args}
    elif source.notebook or (script_of(source.entrypoint) or "").endswith(".ipynb"):
        return {}
    else:
        found = {"entry_point": source.entrypoint}
    return {key: list(words) for key, words in found.items() if words}
