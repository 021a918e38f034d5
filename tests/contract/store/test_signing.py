"""The signing keys: outside of the database, rotated with overlap; submitted keys are encrypted."""

import base64
import errno
import os
import secrets
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog
from sqlalchemy import text

from agent.config.control import ControlConfig
from agent.control.auth.signing import FILE, SigningKeys, add_key, first_key, read_keys
from agent.control.files.signed_urls import SignedUrls
from agent.control.services.assembly import open_services
from agent.model.errors import AuthenticationError, ConfigError
from tests.contract.store.world import World, open_world

KEY = "submitted-" + "k" * 30


def of(*keys: bytes) -> str:
    return ",".join(base64.urlsafe_b64encode(key).decode() for key in keys)


async def _dump(world: World) -> bytes:
    """Everything that the database holds, as text."""

    def work(tx) -> bytes:
        found = []
        for table in _tables(tx):
            for row in tx.run(text(f"SELECT * FROM {table}")).all():  # noqa: S608
                found += [one if isinstance(one, bytes) else str(one).encode() for one in row]
        return b"\n".join(found)

    return await world.plane.database.read(work)


def _tables(tx) -> list[str]:
    from agent.control.store.tables import metadata

    return [table.name for table in metadata.sorted_tables]


async def test_the_signing_key_is_in_a_file_of_its_owner_and_not_in_the_database(
    world: World, store_config: ControlConfig
) -> None:
    keys = world.plane.keys
    file = store_config.data_dir / FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_keys(store_config) == keys
    assert repr(keys.current) not in repr(world.plane)
    dump = await _dump(world)
    for form in (keys.current, keys.current.hex().encode(), of(keys.current).encode()):
        assert form not in dump


async def test_a_submitted_key_is_encrypted_and_reaches_the_agent(world: World) -> None:
    agent = await world.agent()
    item = await world.submit({"_wandb_api_key": KEY})
    assert item.run_spec["_wandb_api_key"] == "***"
    assert KEY.encode() not in await _dump(world)
    claim = await agent.claim_one()
    assert claim.run_spec["_wandb_api_key"] == KEY
    assert claim.layers["submitter"]["_wandb_api_key"] == KEY
    # A move to another queue composes the spec again, from what is stored.
    await world.queue("other")
    second = await world.submit({"_wandb_api_key": KEY})
    await world.plane.items.move(world.me, second.id, "other")
    elsewhere = await world.agent("beta", queues=("other",))
    assert (await elsewhere.claim_one()).run_spec["_wandb_api_key"] == KEY


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_whatever_the_umask_the_file_is_its_owners_only(tmp_path: Path, umask: int) -> None:
    config = ControlConfig(data_dir=tmp_path / "data")
    before = os.umask(umask)
    try:
        add_key(config)
    finally:
        os.umask(before)
    file = config.data_dir / FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    read_keys(config)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o644])
def test_a_readable_file_whose_mode_cannot_be_changed_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """A read-only mount, or a file of another user."""
    config = ControlConfig(data_dir=tmp_path)
    keys = add_key(config)
    (tmp_path / FILE).chmod(mode)

    def refuse(path: object, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(os, "chmod", refuse)
    with structlog.testing.capture_logs() as logged:
        assert read_keys(config) == keys
    assert [(one["mode"], one["log_level"]) for one in logged] == (
        [(f"{mode:04o}", "warning")] if mode & 0o077 else []
    )


def test_the_first_key_needs_no_hard_links_and_leaves_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, *_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(source))

    monkeypatch.setattr(os, "link", refuse)
    config = ControlConfig(data_dir=tmp_path)
    # Of a process that was killed while it wrote.
    (tmp_path / f".{FILE}.first").write_text("x" * 100)
    keys = first_key(config)
    assert [one.name for one in tmp_path.iterdir()] == [FILE]
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert first_key(config) == keys == read_keys(config)
    assert [one.name for one in tmp_path.iterdir()] == [FILE]


def test_of_many_that_start_at_once_all_have_the_same_first_key(tmp_path: Path) -> None:
    config = ControlConfig(data_dir=tmp_path)
    with ThreadPoolExecutor(16) as threads:
        found = {one.ids for one in threads.map(lambda _: first_key(config), range(64))}
    assert len(found) == 1
    assert [one.name for one in tmp_path.iterdir()] == [FILE]


async def test_a_rotation_keeps_what_was_signed_and_encrypted_before(tmp_path: Path) -> None:
    config = ControlConfig(data_dir=tmp_path)
    async with open_world(config) as world:
        agent = await world.agent()
        await world.submit({"_wandb_api_key": KEY})
        claim = await agent.claim_one()
        waiting = await world.submit({"_wandb_api_key": KEY})
        url = SignedUrls(world.plane.keys, "", 60.0).content("read", "ann", "0" * 32, "f")
        old = world.plane.keys.current
    rotated = add_key(config)
    assert (rotated.keys[1], len(rotated.keys)) == (old, 2)
    async with open_world(config) as world:
        assert (await world.plane.accounts.authenticate(claim.run_token)).run is not None
        expires, signature = (part.partition("=")[2] for part in url.partition("?")[2].split("&"))
        subject = ("read", "content", "ann", "0" * 32)
        SignedUrls(world.plane.keys, "", 60.0).check(subject, expires, signature)
    add_key(config)
    async with open_world(config) as world:
        assert old not in world.plane.keys.keys
        with pytest.raises(AuthenticationError):
            await world.plane.accounts.authenticate(claim.run_token)
        agent = await world.agent()
        fresh = await agent.claim_one()
        assert (fresh.lease.item_id, fresh.run_spec["_wandb_api_key"]) == (waiting.id, KEY)


async def test_keys_of_another_installation_are_refused(tmp_path: Path) -> None:
    store_config = ControlConfig(data_dir=tmp_path)
    first, other = secrets.token_bytes(32), secrets.token_bytes(32)
    async with open_services(store_config.model_copy(update=_configured(of(first)))):
        pass
    with pytest.raises(ConfigError, match="not those"):
        async with open_services(store_config.model_copy(update=_configured(of(other)))):
            pass
    async with open_services(
        store_config.model_copy(update=_configured(of(other, first)))
    ) as plane:
        assert plane.keys == SigningKeys((other, first))


def _configured(keys: str) -> dict[str, object]:
    from pydantic import SecretStr

    return {"signing_keys": SecretStr(keys)}


async def test_a_lost_file_is_told_and_not_replaced(tmp_path: Path) -> None:
    config = ControlConfig(data_dir=tmp_path)
    async with open_services(config):
        pass
    (tmp_path / FILE).unlink()
    with pytest.raises(ConfigError, match=FILE):
        async with open_services(config):
            pass
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("keys", ["", "short", "!!!", of(b"k" * 31)])
def test_what_is_no_key_is_refused(tmp_path: Path, keys: str) -> None:
    config = ControlConfig(data_dir=tmp_path, **_configured(keys))
    with pytest.raises(ConfigError, match="no valid signing keys"):
        read_keys(config)
    with pytest.raises(ConfigError, match="signing keys"):
        add_key(config)
