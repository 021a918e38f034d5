"""The keys with which the control plane signs and encrypts; they are never in its database.

They stand in the configuration (`control.signing_keys`), or in the file `signing.keys` of the
data folder, which only its owner may read: base64url, 32 bytes each, the newest first. The first
one signs and encrypts, all of them check and decrypt; so a rotation adds one in front and leaves
the earlier one for what was signed before.
"""

import base64
import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

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
        # It may have been copied or restored with another mode.
        file.chmod(0o600)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        message = f"The file of signing keys {file} cannot be read: {error}."
        raise ConfigError(message, hint="Check its owner and mode (0600).") from None
    return _parse(text, str(file))


def first_key(config: ControlConfig) -> SigningKeys:
    """The file's keys, made now unless another process that starts at once has made it. Blocks.

    Raises:
        ConfigError: as `add_key`.
    """
    file = config.data_dir / FILE
    own = file.with_name(f".{FILE}.{secrets.token_hex(4)}")
    key = secrets.token_bytes(_BYTES)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(own, f"{base64.urlsafe_b64encode(key).decode()}\n")
        # Unlike a rename, this fails where the file exists.
        with suppress(FileExistsError):
            os.link(own, file)
        own.unlink()
    except OSError as error:
        raise _not_writable(file, error) from None
    return read_keys(config) or SigningKeys((key,))


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
    text = "".join(f"{base64.urlsafe_b64encode(key).decode()}\n" for key in keys)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        _write(new, text)
        new.replace(file)
    except OSError as error:
        raise _not_writable(file, error) from None
    return SigningKeys(keys)


def _not_writable(file: Path, error: OSError) -> ConfigError:
    message = f"The file of signing keys {file} cannot be written: {error.strerror}."
    return ConfigError(message, hint="Name another folder by `control.data_dir`.")


def _write(file: Path, text: str) -> None:
    """Write a file that only its owner may read, whatever the umask, and sync it to disk."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as handle:
        handle.write(text)
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
