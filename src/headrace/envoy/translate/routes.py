"""HTTP routes of a VirtualService, for sidecars (`virtual_hosts`) and gateways (`gateways`)."""

from __future__ import annotations

from collections.abc import Sequence

from envoy.config.route.v3 import route_components_pb2 as route_pb2

from headrace.envoy.translate.memo import Memo
from headrace.envoy.view import Scope
from headrace.model.traffic import VirtualService


def http_routes(
    memo: Memo, scope: Scope, virtual_service: VirtualService, port: int, gateway: str
) -> Sequence[route_pb2.Route]:
    """The routes that `virtual_service` makes on listener port `port` for `gateway` (`mesh`, or `namespace/name`),
    in order. Shared by everybody: never change them (copy). A rule without a match ends the list. Empty: no rule
    applies to this caller."""
    raise NotImplementedError
