"""Scalars of the schema: JSON values and strings, times, 64-bit integers."""

import json
from datetime import UTC, datetime
from typing import Any, Final

from ariadne import ScalarType
from graphql import GraphQLError

from agent.model.errors import InvalidInputError
from agent.model.json_values import decode

JSON: Final = ScalarType("JSON")
JSON_STRING: Final = ScalarType("JSONString")
DATE_TIME: Final = ScalarType("DateTime")
INT64: Final = ScalarType("Int64", serializer=int)
DURATION: Final = ScalarType("Duration", serializer=int)

_MAX_DIGITS: Final = 20
_SHOWN: Final = 40
_INT64_RANGE: Final = range(-(2**63), 2**63)


@JSON_STRING.serializer
def _text_out(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


@JSON_STRING.value_parser
def _text_in(value: Any) -> Any:
    """Decoded; bare NaN and Infinity pass.

    Raises:
        GraphQLError: not a string, or not JSON.
    """
    if not isinstance(value, str):
        raise GraphQLError("A JSONString is a string that holds JSON.")
    try:
        return decode(value, "The JSONString", of_runs=True)
    except InvalidInputError as error:
        raise GraphQLError(error.message) from None


@DATE_TIME.serializer
def _time_out(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@DURATION.value_parser
@INT64.value_parser
def _long_in(value: Any) -> int:
    """Numbers, also as strings.

    Raises:
        GraphQLError: not an integer of 64 bits.
    """
    try:
        number = int(value) if isinstance(value, str) and len(value) <= _MAX_DIGITS else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool) or number not in _INT64_RANGE:
        raise GraphQLError(f"Not a 64-bit integer: {str(value)[:_SHOWN]!r}.")
    return number


SCALARS: Final = (JSON, JSON_STRING, DATE_TIME, INT64, DURATION)
