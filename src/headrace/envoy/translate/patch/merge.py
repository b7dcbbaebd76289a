"""How a patch's message goes into one that is there.

Called by the other modules of `patch`. The rules are Istio's (pkg/proto/merge): fields of messages are merged one by
one, lists get longer (or are replaced where the operation says so), entries of maps and durations are replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message

from headrace.envoy.translate.messages import packed
from headrace.model.envoy_filter import Operation, Patch
from headrace.wire.envoy_types import unpacked

_DURATION = duration_pb2.Duration.DESCRIPTOR.full_name


def merge(target: Message, change: Message, *, replace_lists: bool = False) -> None:
    """Put the set fields of `change` into `target`, a message of the same type."""
    for field, value in change.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _merge_map(getattr(target, field.name), value, field.message_type.fields_by_name["value"])
        elif field.is_repeated:
            items = getattr(target, field.name)
            if replace_lists:
                del items[:]
            items.extend(value)
        elif field.message_type is None:
            setattr(target, field.name, value)
        elif field.message_type.full_name == _DURATION:
            getattr(target, field.name).CopyFrom(value)
        else:
            inner = getattr(target, field.name)
            inner.SetInParent()
            merge(inner, value, replace_lists=replace_lists)


def _merge_map(target: Any, change: Any, field: Any) -> None:
    for key, item in change.items():
        if field.message_type is None:
            target[key] = item
        else:
            target[key].CopyFrom(item)


def merge_any(target: any_pb2.Any, change: any_pb2.Any) -> bool:
    """Put what one Any holds into what the other holds; False (and nothing done) where they are not of one type."""
    held, more = unpacked(target), unpacked(change)
    if held is None or more is None or held.DESCRIPTOR is not more.DESCRIPTOR:
        return False
    merge(held, more)
    target.CopyFrom(packed(held))
    return True


def merge_filter(target: Any, change: Any) -> None:
    """Put a patch's filter into a filter: its name where it brings one, and its configuration."""
    if not target.HasField("typed_config"):
        return
    if change.name:
        target.name = change.name
    if change.HasField("typed_config"):
        merge_any(target.typed_config, change.typed_config)


def named(name: str | None) -> Callable[[Any], bool] | None:
    """What tells the filters with this name; None for None."""
    return None if name is None else lambda held: bool(held.name == name)


def change_filters(filters: Any, patch: Patch, value: Message, found: Callable[[Any], bool] | None) -> None:
    """Add, insert, replace or remove in a list of filters. `found` tells those that the patch names (None: it names
    none: then an insertion goes to an end, and nothing is replaced or removed)."""
    operation = patch.operation
    if operation is Operation.ADD or (operation is Operation.INSERT_AFTER and found is None):
        filters.append(value)
    elif operation is Operation.INSERT_FIRST or (operation is Operation.INSERT_BEFORE and found is None):
        filters.insert(0, value)
    elif found is None:
        return
    elif operation is Operation.REMOVE:
        kept = [item for item in filters if not found(item)]
        if len(kept) < len(filters):
            replace_all(filters, kept)
    else:
        at = next((at for at, item in enumerate(filters) if found(item)), None)
        if at is None:
            return
        if operation is Operation.REPLACE:
            filters[at].CopyFrom(value)
        elif operation is Operation.INSERT_BEFORE:
            filters.insert(at, value)
        elif operation is Operation.INSERT_AFTER:
            filters.insert(at + 1, value)


def replace_all(items: Any, kept: Sequence[Any]) -> None:
    """Let a repeated field hold these items, which may be its own."""
    copies = [type(item).FromString(item.SerializeToString(deterministic=True)) for item in kept]
    del items[:]
    items.extend(copies)
