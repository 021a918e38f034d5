"""Repositories and servers that mean harm, or are just broken; local ones, by `file:`."""

import asyncio
import contextlib
import hashlib
import os
import re
import subprocess

import pytest

from agent.config.execution import GitConfig
from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.model.spec import GitSource

LOCAL = GitConfig(protocols=("https", "http", "file", "ssh"), stall_timeout=20)


class Repository:
    """A repository on this disk."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    @property
    def url(self):
        return f"file://{self.folder}"

    def git(self, *arguments, **more):
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=self.folder, check=True, capture_output=True,
            text=True, env={"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null"}, **more,
        ).stdout.strip()  # fmt: skip

    def commit(self, message="more"):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def raw_tree(self, lines):
        tree = self.git("mktree", input=lines)
        commit = self.git("commit-tree", tree, "-m", "raw")
        self.git("update-ref", "refs/heads/main", commit)
        return commit

    def blob(self, text):
        return self.git("hash-object", "-w", "--stdin", input=text)


@pytest.fixture
def repository(tmp_path):
    made = Repository(tmp_path / "origin")
    (made.folder / "main.py").write_text("print('hello')")
    made.commit("first")
    return made


async def refused(bench, url, config=LOCAL, ref=None, **more):
    with pytest.raises(JobError) as caught:
        await bench.fetch(config, url, ref, **more)
    return caught.value


async def test_a_local_repository_needs_the_administrator_s_leave(bench, repository):
    error = await refused(bench, repository.url, GitConfig())
    assert isinstance(error, PolicyError)
    tree = await bench.fetch(LOCAL, repository.url)
    assert (tree.root / "main.py").read_text() == "print('hello')"


async def test_no_hook_runs(bench, repository):
    marker = bench.folder / "marker"
    hooks = repository.folder / ".git" / "hooks"
    for name in ("post-checkout", "pre-receive", "post-merge", "reference-transaction"):
        hook = hooks / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {marker}\n")
        hook.chmod(0o755)
    await bench.fetch(LOCAL, repository.url)
    assert not marker.exists()


async def test_no_filter_runs_and_large_files_stay_pointers(bench, repository):
    marker = bench.folder / "marker"
    (bench.home / ".gitconfig").write_text(
        f'[filter "lfs"]\n\tsmudge = touch {marker}\n\tprocess = touch {marker}\n'
        "\trequired = true\n"
        f'[filter "evil"]\n\tsmudge = touch {marker}\n'
    )
    (repository.folder / ".gitattributes").write_text("*.bin filter=lfs\n*.py filter=evil\n")
    (repository.folder / "big.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    repository.commit()
    tree = await bench.fetch(LOCAL, repository.url)
    assert (tree.root / "big.bin").read_text().startswith("version https://git-lfs")
    assert not marker.exists()


async def test_options_in_url_and_reference_start_nothing(bench, repository):
    marker = bench.folder / "marker"
    for url, ref in (
        (f"--upload-pack=touch {marker}", None),
        (f"ext::sh -c touch% {marker}", None),
        (f"ssh://-oProxyCommand=touch%20{marker}/x", None),
        (repository.url, f"--upload-pack=touch {marker}"),
    ):
        await refused(bench, url, ref=ref)
    assert not marker.exists()


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside"])
async def test_a_link_out_of_the_repository_stays_a_link(bench, repository, target):
    """Whoever would follow it refuses it: a client's log in a committed folder stops no job."""
    (repository.folder / "leak").symlink_to(target)
    repository.commit()
    tree = await bench.fetch(LOCAL, repository.url)
    assert str((tree.root / "leak").readlink()) == target


async def test_links_within_the_repository_stay(bench, repository):
    (repository.folder / "alias.py").symlink_to("main.py")
    repository.commit()
    tree = await bench.fetch(LOCAL, repository.url)
    assert (tree.root / "alias.py").readlink().name == "main.py"


@pytest.mark.parametrize("name", [".git", ".GIT", "git~1"])
async def test_trees_that_climb_or_hide_a_repository_write_nothing(bench, repository, name):
    blob = repository.blob("x")
    repository.raw_tree(f"100644 blob {blob}\t{name}\n")
    error = await refused(bench, repository.url)
    assert error.cause is Cause.SOURCE_INVALID
    assert not list(bench.folder.glob("tree-1/*"))


async def test_a_link_and_a_folder_of_one_name_write_nothing_behind_the_link(bench, repository):
    """CVE-2021-21300 and its kin: a folder whose name is also a link's in other letters."""
    outside = bench.folder / "outside"
    outside.mkdir()
    link = repository.blob(str(outside))
    file = repository.blob("evil")
    inner = repository.git("mktree", input=f"100644 blob {file}\tfile\n")
    repository.raw_tree(f"120000 blob {link}\tA\n040000 tree {inner}\ta\n")
    tree = await bench.fetch(LOCAL, repository.url)
    assert list(outside.iterdir()) == []
    assert (tree.root / "A").is_symlink()
    assert (tree.root / "a/file").read_text() == "evil"


async def test_submodules_follow_the_same_rules(bench, repository):
    commit = repository.git("rev-parse", "HEAD")
    for url, cause in (
        ("ext::sh -c x", Cause.SOURCE_INVALID),
        ("--upload-pack=x", Cause.SOURCE_INVALID),
        ("https://169.254.169.254/x", Cause.POLICY_SOURCE),
        ("git://h/x", Cause.POLICY_SOURCE),
    ):
        modules = repository.blob(f'[submodule "s"]\n\tpath = s\n\turl = {url}\n')
        repository.raw_tree(f"100644 blob {modules}\t.gitmodules\n160000 commit {commit}\ts\n")
        assert (await refused(bench, repository.url, submodules=True)).cause is cause
    repository.raw_tree(f"160000 commit {commit}\ts\n")
    error = await refused(bench, repository.url, submodules=True)
    assert error.cause is Cause.SOURCE_INVALID


async def test_a_submodule_that_is_not_described_is_named(bench, repository):
    commit = repository.git("rev-parse", "HEAD")
    modules = repository.blob('[submodule "s"]\n\tpath = other\n\turl = https://h/x\n')
    repository.raw_tree(f"100644 blob {modules}\t.gitmodules\n160000 commit {commit}\ts\n")
    error = await refused(bench, repository.url, submodules=True)
    assert "submodule 's' has no URL" in error.message


async def test_submodules_without_end_are_stopped(bench, tmp_path):
    """Each level holds the one before it."""
    below = None
    for level in range(11):
        made = Repository(tmp_path / f"level-{level}")
        if below is None:
            made.commit()
        else:
            modules = made.blob(f'[submodule "s"]\n\tpath = s\n\turl = {below.url}\n')
            head = below.git("rev-parse", "main")
            made.raw_tree(f"100644 blob {modules}\t.gitmodules\n160000 commit {head}\ts\n")
        below = made
    error = await refused(bench, below.url, submodules=True)
    assert "deeper than 8 levels" in error.message


async def test_an_empty_repository_is_told(bench, tmp_path):
    error = await refused(bench, Repository(tmp_path / "empty").url)
    assert error.cause is Cause.SOURCE_NOT_FOUND
    assert "the repository is empty" in error.message


async def test_a_tag_of_a_file_is_no_commit(bench, repository):
    repository.git("tag", "file", repository.blob("x"))
    error = await refused(bench, repository.url, ref="file")
    assert error.cause is Cause.SOURCE_NOT_FOUND


async def test_a_branch_goes_before_a_tag_of_its_name(bench, repository):
    repository.git("tag", "same")
    repository.git("checkout", "--quiet", "-b", "same")
    commit = repository.commit()
    assert (await bench.fetch(LOCAL, repository.url, "refs/heads/same")).commit == commit
    assert (await bench.fetch(LOCAL, repository.url, "same")).commit == commit


async def test_a_damaged_mirror_is_made_anew(bench, repository):
    commit = repository.git("rev-parse", "HEAD")
    await bench.fetch(LOCAL, repository.url, commit)
    packs = list(bench.cache.glob("mirrors/*/repository.git/objects/pack/*.pack"))
    assert packs
    for pack in packs:
        pack.chmod(0o600)
        pack.write_bytes(pack.read_bytes()[:40])
    tree = await bench.fetch(LOCAL, repository.url, commit)
    assert (tree.root / "main.py").exists()


async def test_what_a_killed_git_left_does_not_block(bench, repository):
    await bench.fetch(LOCAL, repository.url)
    mirror = next(bench.cache.glob("mirrors/*/repository.git"))
    for name in ("shallow.lock", "config.lock", "packed-refs.lock", "objects/pack/tmp_pack_x"):
        (mirror / name).write_text("")
    repository.commit()
    tree = await bench.fetch(LOCAL, repository.url)
    assert tree.commit == repository.git("rev-parse", "HEAD")
    assert not (mirror / "objects/pack/tmp_pack_x").exists()


async def test_mirrors_are_pruned_by_last_use_and_never_while_held(bench, repository):
    fetcher = bench.fetcher(LOCAL)
    await bench.fetch(LOCAL, repository.url, fetcher=fetcher)
    (mark,) = bench.cache.glob("mirrors/*/.used")
    os.utime(mark, (1, 1))
    from agent.system.locks import locked

    async with locked(mark.parent.with_suffix(".lock")):
        assert await fetcher.prune(3600, 0) == 0
    assert mark.exists()
    assert await fetcher.prune(3600, 0) > 0
    assert not mark.parent.exists()
    assert await fetcher.prune(3600, 0) == 0


async def test_without_git_the_message_says_so(bench, repository):
    error = await refused(bench, repository.url, environment={"PATH": "/nowhere"})
    assert "`git` is not installed" in error.message


@contextlib.asynccontextmanager
async def server(answer):
    """A far end that does what `answer(reader, writer)` does; gives its address."""
    async with contextlib.AsyncExitStack() as stack:
        writers = []

        async def serve(reader, writer):
            writers.append(writer)
            with contextlib.suppress(ConnectionError):
                await answer(reader, writer)

        made = await asyncio.start_server(serve, "127.0.0.1", 0)
        stack.push_async_callback(made.wait_closed)
        stack.callback(made.close)
        stack.callback(lambda: [writer.close() for writer in writers])
        yield f"127.0.0.1:{made.sockets[0].getsockname()[1]}"


async def silence(reader, _writer):
    await reader.read()


@pytest.mark.parametrize("protocol", ["https", "http", "ssh"])
async def test_a_host_that_accepts_and_never_answers_is_given_up(bench, protocol):
    config = LOCAL.model_copy(update={"stall_timeout": 1.0})
    async with server(silence) as address:
        error = await refused(bench, f"{protocol}://{address}/org/repo.git", config)
    assert error.cause is Cause.SOURCE_UNREACHABLE
    assert address in error.message
    assert "sent nothing for 1 s" in error.message or "cannot be reached" in error.message


async def test_one_fetch_has_a_deadline(bench):
    config = LOCAL.model_copy(update={"timeout": 0.5, "stall_timeout": 0.0})
    async with server(silence) as address:
        error = await refused(bench, f"http://{address}/r", config)
    assert error.cause is Cause.SOURCE_UNREACHABLE
    assert "was not fetched within 0.5 s" in error.message


async def test_a_stopped_job_stops_its_fetch(bench):
    called = asyncio.Event()

    async def answer(reader, writer):
        called.set()
        await silence(reader, writer)

    async with server(answer) as address:
        fetcher = bench.fetcher(LOCAL)
        source = GitSource(url=f"http://{address}/r")
        fetching = asyncio.create_task(fetcher.fetch(source, "team", bench.into(), bench.log))
        await called.wait()
        fetching.cancel()
        await asyncio.wait([fetching])
    assert fetching.cancelled()


async def test_a_port_where_nobody_listens_is_unreachable(bench):
    async with server(silence) as address:
        pass
    error = await refused(bench, f"http://{address}/r")
    assert error.cause is Cause.SOURCE_UNREACHABLE
    assert "cannot be reached" in error.message


async def test_another_protocol_on_the_port_is_told(bench):
    async def answer(reader, writer):
        writer.write(b"SSH-2.0-OpenSSH_9\r\n")
        await writer.drain()
        writer.close()

    async with server(answer) as address:
        error = await refused(bench, f"https://{address}/r")
    assert error.cause in {Cause.SOURCE_UNREACHABLE, Cause.SOURCE_INVALID}
    assert address in error.message


async def test_a_web_server_without_git_is_no_repository(bench):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    async with server(answer) as address:
        error = await refused(bench, f"http://{address}/r")
    assert error.cause is Cause.SOURCE_NOT_FOUND


async def test_a_redirect_to_metadata_makes_no_second_connection(bench):
    second = []

    async def trap(reader, writer):
        second.append(await reader.read(10))

    async with server(trap) as elsewhere:

        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            where = f"Location: http://{elsewhere}/latest/meta-data/\r\n".encode()
            head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\n"
            writer.write(head + where + b"\r\n")
            await writer.drain()
            writer.close()

        async with server(answer) as address:
            error = await refused(bench, f"http://{address}/r")
    assert error.cause is Cause.POLICY_SOURCE
    assert second == []


async def test_behind_a_proxy_the_proxy_resolves_names(bench):
    asked = []

    async def proxy(reader, writer):
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    def unknown(_host, _port):
        raise OSError(-2, "Name or service not known")

    async with server(proxy) as address:
        environment = {**bench.environment, "http_proxy": f"http://{address}"}
        error = await refused(
            bench, "http://far.invalid/r", resolver=unknown, environment=environment
        )
    assert error.cause is Cause.SOURCE_NOT_FOUND
    assert asked[0].startswith(b"GET http://far.invalid/r/info/refs")
    plain = await refused(bench, "http://far.invalid/r", resolver=unknown)
    assert "cannot be resolved" in plain.message


async def test_files_in_git_lfs_of_a_submodule_are_fetched_by_file_too(bench, repository, tmp_path):
    inner = Repository(tmp_path / "inner")
    content = b"weights"
    digest, place = lfs_place(inner, content)
    place.write_bytes(content)
    (inner.folder / ".gitattributes").write_text("*.bin filter=lfs -text\n")
    version = "version https://git-lfs.github.com/spec/v1"
    (inner.folder / "big.bin").write_text(f"{version}\noid sha256:{digest}\nsize 7\n")
    modules = repository.blob(f'[submodule "s"]\n\tpath = s\n\turl = {inner.url}\n')
    repository.raw_tree(f"100644 blob {modules}\t.gitmodules\n160000 commit {inner.commit()}\ts\n")
    tree = await bench.fetch(LOCAL, repository.url, submodules=True, lfs=True)
    assert (tree.root / "s/big.bin").read_bytes() == content


def lfs_place(repository, content):
    """The digest of a content, and where a repository on a disk keeps it."""
    digest = hashlib.sha256(content).hexdigest()
    place = repository.folder / ".git/lfs/objects" / digest[:2] / digest[2:4] / digest
    place.parent.mkdir(parents=True)
    return digest, place


async def test_files_in_git_lfs_are_told(bench, repository):
    await bench.fetch(LOCAL, repository.url)
    assert "LFS" not in bench.log.text
    (repository.folder / "deep").mkdir()
    (repository.folder / "deep/.gitattributes").write_text("*.bin filter=lfs diff=lfs -text\n")
    (repository.folder / "deep/big.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    repository.commit()
    await bench.fetch(LOCAL, repository.url)
    assert "files in Git LFS are not fetched" in bench.log.text


def a_bomb(repository, levels):
    """A commit whose few trees list 10 to the power of `levels` files."""
    entry = f"100644 blob {repository.blob('x')}\t"
    for _ in range(levels):
        tree = repository.git("mktree", input="".join(f"{entry}{number}\n" for number in range(10)))
        entry = f"040000 tree {tree}\t"
    commit = repository.git("commit-tree", tree, "-m", "bomb")
    repository.git("update-ref", "refs/heads/main", commit)


def written(bench):
    return [path for path in bench.folder.glob("tree-*/**/*") if path.is_file()]


async def test_trees_that_list_a_billion_files_write_none(bench, repository):
    a_bomb(repository, 9)
    error = await refused(bench, repository.url)
    assert isinstance(error, PolicyError)
    assert error.cause is Cause.POLICY_SOURCE
    assert "this agent allows 500000 files" in error.message
    assert "sources.git.max_files" in error.hint
    assert written(bench) == []


@pytest.mark.parametrize(
    ("limit", "seen"), [({"max_files": 2}, "3 files"), ({"max_size": 3000}, "with 2.9 KiB")]
)
async def test_a_commit_has_limits_of_files_and_bytes(bench, repository, limit, seen):
    for name in "ab":
        (repository.folder / name).write_text("x" * 1500)
    repository.commit()
    error = await refused(bench, repository.url, LOCAL.model_copy(update=limit))
    assert seen in error.message
    assert written(bench) == []
    assert (await bench.fetch(LOCAL, repository.url)).root.is_dir()


async def test_a_repository_and_its_submodules_share_the_limits(bench, tmp_path, repository):
    for name in ("inner", "other"):
        inner = Repository(tmp_path / name)
        (inner.folder / "data").write_text("x" * 90_000)
        inner.commit()
        allow = ("-c", "protocol.file.allow=always")
        repository.git(*allow, "submodule", "add", "--quiet", inner.url, name)
    repository.commit()
    fits = LOCAL.model_copy(update={"max_size": 200_000})
    assert (await bench.fetch(fits, repository.url, submodules=True)).root.is_dir()
    exceeded = LOCAL.model_copy(update={"max_size": 150_000})
    error = await refused(bench, repository.url, exceeded, submodules=True)
    assert "this agent allows" in error.message


async def test_what_was_transferred_beyond_the_limit_does_not_stay(bench, repository):
    (repository.folder / "noise").write_bytes(os.urandom(3_000_000))
    repository.commit()
    limited = LOCAL.model_copy(update={"max_size": 2_000_000})
    error = await refused(bench, repository.url, limited)
    assert "a transfer of" in error.message
    left = sum(path.stat().st_size for path in bench.cache.rglob("*") if path.is_file())
    assert left < 1_000_000
    assert (await bench.fetch(LOCAL, repository.url)).root.is_dir()


def line(data: bytes) -> bytes:
    """A packet line of git's protocol."""
    return b"%04x" % (len(data) + 4) + data


async def test_a_server_whose_pack_never_ends_is_cut_off(bench):
    """A pack of one file of a terabyte, by git's protocol over HTTP."""
    commit = "c0ffee" * 6 + "abcd"
    head = f"{commit} HEAD\0side-band-64k shallow allow-reachable-sha1-in-want\n".encode()
    refs = line(b"# service=git-upload-pack\n") + b"0000" + line(head) + b"0000"
    # One blob with 2^40 bytes; its data is a stream of deflate's blocks that are not compressed.
    pack = b"PACK\0\0\0\2\0\0\0\1" + b"\xb0" + b"\x80" * 4 + b"\x80\x01" + b"\x78\x01"
    block = b"\0" + (32_768).to_bytes(2, "little") + (32_767).to_bytes(2, "little")
    sent = 0

    async def answer(reader, writer):
        nonlocal sent
        asked = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", asked)
        body = await reader.readexactly(int(length[1])) if length else b""
        service = "result" if length else "advertisement"
        kind = f"Content-Type: application/x-git-upload-pack-{service}\r\n"
        writer.write(f"HTTP/1.1 200 OK\r\n{kind}Connection: close\r\n\r\n".encode())
        if service == "advertisement":
            writer.write(refs)
        else:
            writer.write(line(f"shallow {commit}".encode()) + b"0000")
        if b"done" in body:
            writer.write(line(b"NAK\n") + line(b"\1" + pack))
            while True:
                writer.write(line(b"\1" + block + os.urandom(32_768)))
                sent += 32_768
                await writer.drain()
        await writer.drain()
        writer.close()

    config = LOCAL.model_copy(update={"max_size": 5_000_000})
    async with server(answer) as address:
        error = await refused(bench, f"http://{address}/r", config, commit)
    assert isinstance(error, PolicyError)
    assert "a transfer of" in error.message
    assert sent > 5_000_000
    left = sum(path.stat().st_size for path in bench.cache.rglob("*") if path.is_file())
    assert left < 1_000_000
