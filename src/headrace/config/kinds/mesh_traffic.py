"""What MeshConfig says of the traffic of all workloads, where nothing closer to one says otherwise.

Used by `mesh_config`: keep-alive, HTTP/2, names, retries before the application, connection pools and ejection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.config.kinds.http_lowering import lower_retries
from headrace.config.kinds.traffic_policy import lower_outlier, lower_pool
from headrace.model.destination import TcpKeepalive
from headrace.model.mesh import DNS_REFRESH, MeshTraffic

if TYPE_CHECKING:
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
