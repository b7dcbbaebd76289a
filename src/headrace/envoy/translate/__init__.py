"""One proxy's view becomes the resources that it is sent: pure, deterministic, memoised.

`Translator.resources(view)` is the one way in (called by `app`). Parts, one file a concern: clusters, endpoints,
routes (with route_match, route_action, virtual_hosts), outbound listeners; and inbound, gateways, hcm, tls, loopback,
each `resources(memo, view) -> Sequence[XdsResource]`.
"""

from __future__ import annotations

from headrace.envoy.resources import ResourceSet
from headrace.envoy.translate.memo import Memo
from headrace.envoy.view import ProxyView


class Translator:
    """Translates views; keeps what it built in one `Memo`. Not thread-safe."""

    def __init__(self, memo: Memo | None = None) -> None:
        self.memo = memo or Memo()

    def resources(self, view: ProxyView) -> ResourceSet:
        """All resources of the view's proxy; the same view gives the same objects."""
        raise NotImplementedError
