"""Runs inside the client's environment: calls its own functions, and is its server and run.

One JSON list `[function, arguments]` per line in, one JSON object per line out.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import wandb  # noqa: E402
from wandb.sdk.artifacts.artifact import Artifact  # noqa: E402
from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry  # noqa: E402
from wandb.sdk.artifacts.artifact_manifests.artifact_manifest_v1 import (  # noqa: E402
    ArtifactManifestV1,
)
from wandb.sdk.data_types._dtypes import TypeRegistry  # noqa: E402
from wandb.sdk.internal.job_builder import JobBuilder  # noqa: E402
from wandb.sdk.launch import create_job  # noqa: E402
from wandb.sdk.launch.utils import get_entrypoint_file  # noqa: E402
from wandb.sdk.lib.gitlib import remote_url_without_password  # noqa: E402
from wandb.sdk.lib.hashutil import b64_to_hex_id, md5_file_b64  # noqa: E402
from wandb.util import make_artifact_name_safe  # noqa: E402

CODE_ID = "QXJ0aWZhY3Q6MTM="


class Server:
    """What the server and the hidden run see while a job is created."""

    def __init__(self):
        self.created = []
        self.logged = {}
        self.id = "hidden01"

    def create_version(self, _api, **version):
        self.created.append(version)
        return {"id": CODE_ID, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}, 1

    def log_artifact(self, artifact, aliases=None):
        entries = artifact.manifest.entries.items()
        self.logged[artifact.type] = {
            "name": artifact.name.partition(":")[0],
            "digest": artifact.digest,
            "aliases": aliases,
            "entries": {path: entry.digest for path, entry in entries},
            "texts": {path: text(entry.local_path) for path, entry in entries},
        }

    def finish(self):
        pass

    def run(self, _path):
        return SimpleNamespace(delete=lambda: None)


def text(path):
    return Path(path).read_text(encoding="utf-8")


def create(**arguments):
    """`wandb job create`: the job's name and aliases, and what would be uploaded."""
    server = Server()
    create_job.create_artifact_version = server.create_version
    wandb.init = lambda **_settings: server
    wandb.Api = lambda: server
    Artifact.wait = lambda self: self
    api = SimpleNamespace(_service_api=None)
    artifact, action, aliases = create_job._create_job(api, entity="e", project="p", **arguments)
    if artifact is None:
        return None
    version = server.created[-1]
    return {
        "name": server.logged["job"]["name"],
        "metadata": version["metadata"],
        "aliases": aliases,
        "action": action,
        **server.logged,
    }


def from_run(files, metadata, settings=None):
    """The job builder's name and source for a run with these files and metadata."""
    for name, content in {"wandb-metadata.json": json.dumps(metadata), **files}.items():
        Path(name).write_text(content, encoding="utf-8")
    chosen = wandb.Settings(disable_job_creation=False, **(settings or {}))
    builder = JobBuilder(settings=chosen, files_dir=".")
    builder.set_config({})
    builder.set_summary({})
    artifact = builder.build(None)
    return {
        "name": artifact.name.partition(":")[0],
        "aliases": builder._aliases,
        "file": text(artifact.manifest.entries["wandb-job.json"].local_path),
    }


def manifest_digest(entries):
    manifest = ArtifactManifestV1(digest_algorithm="MANIFEST_MD5")
    for path, digest in entries.items():
        manifest.add_entry(ArtifactManifestEntry(path=path, digest=digest, size=0))
    return manifest.digest()


def file_digest(path):
    return md5_file_b64(path)


def flags(words):
    """Every parameter of one command, hidden ones too: its names, and how it is written."""
    from wandb.cli.cli import cli

    command = cli
    for word in words:
        command = command.commands[word]
    return [
        {
            "names": sorted(each.opts),
            "option": each.param_type_name == "option",
            "repeated": bool(getattr(each, "multiple", False) or getattr(each, "count", False)),
            "alone": bool(getattr(each, "is_flag", False)),
            "bare": value if isinstance(value := getattr(each, "flag_value", None), str) else None,
            "envvar": each.envvar,
        }
        for each in command.params
    ]


FUNCTIONS = {
    "flags": flags,
    "create": create,
    "from_run": from_run,
    "safe_name": make_artifact_name_safe,
    "code_artifact_name": create_job._make_code_artifact_name,
    "entry_point_file": get_entrypoint_file,
    "without_password": remote_url_without_password,
    "manifest_digest": manifest_digest,
    "file_digest": file_digest,
    "hex_of": b64_to_hex_id,
    "type_tree": lambda value: TypeRegistry.type_of(value).to_json(),
}


def answer(line):
    function, arguments = json.loads(line)
    try:
        return {"value": FUNCTIONS[function](**arguments)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


for request in sys.stdin:
    print(json.dumps(answer(request)), file=ANSWERS, flush=True)
