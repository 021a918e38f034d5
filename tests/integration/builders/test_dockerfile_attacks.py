"""Dockerfiles of a job's own that reach for the host, for other entities, and for secrets."""

import uuid

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.config.execution import BuildSecret
from agent.docker.images import EngineImages
from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from tests.integration.builders.refusing import refused

pytestmark = [pytest.mark.docker, pytest.mark.buildkit]


@pytest.fixture
async def inner():
    """A service on the host's loopback, and what asked it."""
    asked = []

    async def answer(request):
        asked.append(request.path)
        return web.Response(text="inner")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as made:
        yield f"127.0.0.1:{made.port}", asked


@pytest.fixture
def dockerfile(tmp_path, request_for, docker_engine):
    """A request with a Dockerfile of its own; `{base}` is an image that is there."""

    def make(text, **changes):
        folder = tmp_path / "own"
        folder.mkdir(exist_ok=True)
        file = folder / "Dockerfile"
        file.write_text(text.replace("{base}", docker_engine.shell_image))
        return request_for(folder, dockerfile=file, **changes)

    return make


@pytest.fixture(params=["engine", "buildkitd"])
def builders(request, builder, docker_engine):
    """Both kinds of BuildKit."""
    if request.param == "engine":
        return builder
    found = request.getfixturevalue("buildkitd")
    return lambda **config: builder(buildkit=found.address, **config)


@pytest.mark.parametrize("network", ["default", "none"])
@pytest.mark.parametrize(
    "line",
    [
        "ADD http://{inner}/x /x", "ADD http://169.254.169.254/latest /x",
        "ADD https://localhost:1/x /x", "ADD http://{inner}/r.git /x",
        "ADD git://{inner}/r.git /x", "ADD git@127.0.0.1:r.git /x",
        "ARG U=http://{inner}/y\nADD $U /x",
        "ADD --checksum=sha256:" + "0" * 64 + " http://{inner}/z /z",
    ],
)  # fmt: skip
async def test_add_fetches_nothing(builders, dockerfile, build, inner, network, line):
    address, asked = inner
    request = dockerfile("FROM scratch\n" + line.replace("{inner}", address))
    error = await refused(builders(network=network), request, build)
    assert error.cause is Cause.POLICY_SOURCE, error
    assert asked == []


async def test_an_image_s_registry_is_not_asked_unless_named_in_full(
    builders, dockerfile, build, inner
):
    """What the reader of Dockerfiles does not understand is denied by BuildKit itself."""
    address, asked = inner
    text = f"ARG A={address}/evil\nARG B=${{A%x}}\nFROM scratch\nCOPY --from={address}/a:1 / /\n"
    for line in ("FROM ${B#y}\n", f"# syntax={address}/frontend:1\nFROM scratch\n"):
        await refused(builders(), dockerfile(line + text), build)
    assert asked == []


async def test_run_reaches_no_loopback_and_not_the_host_s_network(
    builder, dockerfile, build, inner
):
    address, asked = inner
    request = dockerfile(
        f"FROM {{base}}\nRUN --network=host wget -q -T 2 -O- http://{address}/x || true\n"
    )
    with pytest.raises(JobError):
        await build(builder(), request)
    request = dockerfile(f"FROM {{base}}\nRUN ! (echo > /dev/tcp/{address.replace(':', '/')})\n")
    await build(builder(), request)
    assert asked == []


async def test_images_of_other_jobs_are_out_of_reach(builder, dockerfile, build, engine):
    image, _ = await build(builder(), dockerfile("FROM {base}\nRUN echo secret > /secret\n"))
    local = await EngineImages(engine).inspect(image.reference)
    short = local.id[: len("sha256:") + 12]
    for name in (image.name, local.id, short, f"docker.io/library/{short}"):
        for text in (
            f"FROM {name}\n", f"FROM {{base}}\nCOPY --from={name} /secret /x\n",
            f"FROM {{base}}\nRUN --mount=from={name},target=/m cat /m/secret\n",
        ):  # fmt: skip
            error = await refused(builder(), dockerfile(text), build)
            assert error.cause is Cause.POLICY_SOURCE, (text, error)


async def test_entities_share_no_cache_mount(builder, dockerfile, build):
    """Neither by an id that both choose, nor by the one that our own steps use."""
    left = "--mount=type=cache,id={id},target=/c"
    once = uuid.uuid4()
    for cache in ("common", "launch-uv", "/root/.cache/uv", "../x"):
        mount = left.replace("{id}", cache)
        poison = f"FROM {{base}}\nRUN {mount} echo {once} > /c/poison\n"
        await build(builder(), dockerfile(poison, entity="mallory"))
        look = f"FROM {{base}}\nRUN {mount} test ! -e /c/poison && echo {once}\n"
        await build(builder(), dockerfile(look, entity="alice"))


async def test_a_secret_is_mounted_for_its_queues_only(builder, dockerfile, build):
    secrets = {"npm": BuildSecret(value="c4n4ry", queues=("ann/train",))}
    text = "FROM {base}\nRUN --mount=type=secret,id=npm cat /run/secrets/npm | tr a-z A-Z"
    text += f"; echo {uuid.uuid4()}\n"  # no step of an earlier run is used again
    made = builder(secrets=secrets)
    _, log = await build(made, dockerfile(text, queue="ann/train"))
    assert "C4N4RY" in log.text
    required = text.replace("id=npm", "id=npm,required=true")
    with pytest.raises(JobError):
        await build(made, dockerfile(required, queue="ann/other"))


async def test_entities_share_no_image(builder, dockerfile):
    made = builder()
    text = "FROM {base}\n"
    ann, bob = [await made.key(dockerfile(text, entity=name)) for name in ("ann", "bob")]
    assert ann != bob


async def test_a_frontend_of_the_job_s_own_is_refused(builder, dockerfile, build):
    request = dockerfile("# syntax=evil/frontend\nFROM {base}\n")
    with pytest.raises(PolicyError, match="evil/frontend"):
        await build(builder(), request)
