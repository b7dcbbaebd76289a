"""Resources as people and scripts read them: protobuf JSON with snake_case names and `@type` in every Any.

Called by `headrace translate`. Only what this process translated itself is decoded, so every message type is known.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2, json_format

from headrace.envoy.resources import XdsResource

_FIRST = ("@type", "name", "cluster_name")


def as_data(resource: XdsResource) -> dict[str, Any]:
    """The resource as JSON data; type and name come first, all other fields in alphabetical order (protobuf's maps
    have no order of their own)."""
    holder = any_pb2.Any(type_url=resource.type_url, value=resource.body)
    data = json_format.MessageToDict(holder, preserving_proto_field_name=True)
    del data["@type"]
    ordered: dict[str, Any] = _ordered(data)
    return ordered


def _ordered(value: Any) -> Any:
    if isinstance(value, list):
        return [_ordered(item) for item in value]
    if not isinstance(value, dict):
        return value
    names = [name for name in _FIRST if name in value] + sorted(name for name in value if name not in _FIRST)
    return {name: _ordered(value[name]) for name in names}
