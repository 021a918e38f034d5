"""The keys with which the control plane signs and encrypts; they are never in its database.

They are set in the configuration (`control.signing_keys`), or are in the file `signing.keys` of the
data folder, whose mode becomes 0600 where it can be changed: base64url, 32 bytes each, the newest
first. The first one signs and encrypts, all of them check and decrypt; so a rotation adds one in
front and leaves the earlier one for what was signed before.
"""

import base64
import fcntl
import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

import structlog

from agent.config.control import ControlConfig
from agent.model.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

FILE: Final = "signing.keys"
_BYTES: Final = 32
#: The newest and the one before it.
_KEPT: Final = 2


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """At least one key, the newest first."""

    keys: tuple[bytes, ...] = field(repr=False)

    @property
    def current(self) -> bytes:
        """The key that signs."""
        return self.keys[0]

    @property
    def ids(self) -> tuple[str, ...]:
        """What tells the keys apart without giving them away."""
        return tuple(hashlib.sha256(b"id:" + key).hexdigest()[:16] for key in self.keys)

    def encrypt(self, text: bytes) -> bytes:
        """Encrypt and authenticate, by the current key."""
        return self._fernet().encrypt(text)

    def decrypt(self, token: bytes) -> bytes | None:
        """The text of a token; `None` when none of the keys has made it."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet().decrypt(token)
        except InvalidToken:
            return None

    def _fernet(self) -> "MultiFernet":
        """Imported where it is needed: few submissions have keys of their own."""
        from cryptography.fernet import Fernet, MultiFernet

        derived = (hmac.digest(key, b"encryption", "sha256") for key in self.keys)
        return MultiFernet([Fernet(base64.urlsafe_b64encode(one)) for one in derived])


def read_keys(config: ControlConfig) -> SigningKeys | None:
    """The configured keys, or those of the file; `None` when there is no file yet. Blocks.

    Raises:
        ConfigError: they cannot be read.
    """
    if config.signing_keys is not None:
        return _parse(config.signing_keys.get_secret_value(), "`control.signing_keys`")
    file = config.data_dir / FILE
    try:
        text = file.read_text(encoding="ascii")
        mode = stat.S_IMODE(file.stat().st_mode)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        message = f"The file of signing keys {file} cannot be read: {error}."
        raise ConfigError(message, hint="Check its owner and mode (0600).") from None
    if mode & 0o077:
        _make_private(file, mode)
    return _parse(text, str(file))


def _make_private(file: Path, mode: int) -> None:
    """Close a file that was copied or restored with another mode, or is mounted as a secret."""
    try:
        file.chmod(0o600)
    except OSError as error:  # a read-only mount, or the file of another user
        structlog.get_logger().warning(
            "other users may read the file of signing keys, and its mode cannot be changed",
            file=str(file), mode=f"{mode:04o}", error=error.strerror,
        )  # fmt: skip


def first_key(config: ControlConfig) -> SigningKeys | None:
    """The file's keys, made now unless another process that starts at once has made it. Blocks.

    All processes that start at once lock the same temporary file; the first one writes and renames
    it. What a killed process leaves of it, the next start overwrites.

    Raises:
        ConfigError: as `add_key`.
    """
    file = config.data_dir / FILE
    new = file.with_name(f".{FILE}.first")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(new, flags, 0o600), "w", encoding="ascii") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if file.exists():
                # The lock may have been that of the file itself, under its earlier name.
                new.unlink(missing_ok=True)
            else:
                handle.truncate()
                _write(handle, (secrets.token_bytes(_BYTES),))
                new.replace(file)
    except OSError as error:
        raise _not_writable(file, error) from None
    return read_keys(config)


def add_key(config: ControlConfig) -> SigningKeys:
    """Put a new key in front of those of the file, of which the newest one stays. Blocks.

    Raises:
        ConfigError: the keys are configured, or the file cannot be read or written.
    """
    if config.signing_keys is not None:
        raise ConfigError(
            "The signing keys are those of `control.signing_keys`.",
            hint="Put a new key in front of them there: 32 random bytes as base64url.",
        )
    known = read_keys(config)
    keys = (secrets.token_bytes(_BYTES), *(known.keys if known else ()))[:_KEPT]
    file = config.data_dir / FILE
    new = file.with_name(f".{FILE}.new")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as handle:
            _write(handle, keys)
        new.replace(file)
    except OSError as error:
        raise _not_writable(file, error) from None
    return SigningKeys(keys)


def _not_writable(file: Path, error: OSError) -> ConfigError:
    message = f"The file of signing keys {file} cannot be written: {error.strerror}."
    return ConfigError(message, hint="Name another folder by `control.data_dir`.")


def _write(handle: TextIO, keys: tuple[bytes, ...]) -> None:
    """Write an open file, and sync it to disk."""
    handle.writelines(f"{base64.urlsafe_b64encode(key).decode()}\n" for key in keys)
    handle.flush()
    os.fsync(handle.fileno())


def _parse(text: str, place: str) -> SigningKeys:
    words = text.replace(",", " ").split()
    try:
        keys = tuple(base64.b64decode(word, altchars=b"-_", validate=True) for word in words)
    except ValueError:
        keys = ()
    if not keys or any(len(key) < _BYTES for key in keys):
        raise ConfigError(
            f"{place} has no valid signing keys.",
            hint="Each is 32 random bytes or more as base64url, the newest first.",
        )
    return SigningKeys(keys)
