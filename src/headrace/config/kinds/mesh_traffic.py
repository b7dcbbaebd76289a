"""What MeshConfig says of the traffic of all workloads, where nothing closer to one says otherwise.

Used by `mesh_config`: keep-alive, HTTP/2, names, retries before the application, connection pools and ejection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.config.kinds.traffic_policy import lower_outlier, lower_pool
from headrace.model.destination import TcpKeepalive
from headrace.model.mesh import DNS_REFRESH, MeshTraffic
from headrace.model.traffic import Retries

if TYPE_CHECKING:
    from headrace.config.kinds.http_route import RetrySpec
    from headrace.config.kinds.mesh_config import MeshConfigSpec


def lower_traffic(spec: MeshConfigSpec) -> MeshTraffic:
    """The settings of a valid MeshConfig."""
    alive, policy, inbound = spec.tcp_keepalive, spec.default_traffic_policy, spec.inbound_traffic_policy
    pool = policy.connection_pool if policy is not None else None
    outliers = policy.outlier_detection if policy is not None else None
    return MeshTraffic(
        keepalive=TcpKeepalive(alive.probes or None, alive.time, alive.interval) if alive is not None else None,
        http2_upgrade=spec.h2_upgrade_policy == "UPGRADE",
        dns_refresh=DNS_REFRESH if spec.dns_refresh_rate is None else spec.dns_refresh_rate,
        inbound_retries=lower_retries(spec.default_inbound_http_retry_policy),
        to_localhost=inbound is not None and inbound.mode == "LOCALHOST",
        pool=lower_pool(pool) if pool is not None else None,
        outliers=lower_outlier(outliers) if outliers is not None else None,
    )


def lower_retries(spec: RetrySpec | None) -> Retries | None:
    """A retry policy of the mesh."""
    if spec is None:
        return None
    return Retries(
        attempts=spec.attempts,
        per_try_timeout=spec.per_try_timeout,
        retry_on=spec.retry_on,
        retry_remote_localities=spec.retry_remote_localities,
        retry_ignore_previous_hosts=spec.retry_ignore_previous_hosts,
        backoff=spec.backoff,
    )
