"""Resources as people and scripts read them: protobuf JSON with snake_case names and `@type` in every Any.

Called by `headrace translate`. Only what this process translated itself is decoded, so every message type is known.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2, json_format
from google.protobuf.message import Message

from headrace.envoy.resources import XdsResource

_FIRST = ("@type", "name", "cluster_name")


def as_data(resource: XdsResource) -> dict[str, Any]:
    """The resource as JSON data; type and name come first, all other fields in alphabetical order (protobuf's maps
    have no order of their own)."""
    holder = any_pb2.Any(type_url=resource.type_url, value=resource.body)
    data = message_data(holder)
    del data["@type"]
    return data


def message_data(message: Message) -> dict[str, Any]:
    """A message, or a part of one, in the same form."""
    ordered: dict[str, Any] = _ordered(json_format.MessageToDict(message, preserving_proto_field_name=True))
    return ordered


def _ordered(value: Any) -> Any:
    if isinstance(value, list):
        return [_ordered(item) for item in value]
    if not isinstance(value, dict):
        return value
    names = [name for name in _FIRST if name in value] + sorted(name for name in value if name not in _FIRST)
    return {name: _ordered(value[name]) for name in names}
