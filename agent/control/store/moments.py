"""Times as stored (seconds since 1970) and as shown."""

from datetime import UTC, datetime
from typing import overload


@overload
def moment(seconds: float) -> datetime: ...
@overload
def moment(seconds: float | None) -> datetime | None: ...
def moment(seconds: float | None) -> datetime | None:
    """An aware time in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
