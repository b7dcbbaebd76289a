"""What model servers say of themselves, brought into one form. Pure: bytes of their pages in, `EngineMetrics` out.

Whoever scrapes asks `pages_of` which pages an engine has, fetches them, and calls `read_metrics`. What is learned there
only corrects the mesh's own knowledge of what it has sent where.
"""

from headrace.inference.metrics.engine_metrics import EngineMetrics, LoraMetrics, MetricsError
from headrace.inference.metrics.exposition import MOST_BYTES
from headrace.inference.metrics.named import MetricNames
from headrace.inference.metrics.read import is_enough, pages_of, read_metrics

__all__ = [
    "EngineMetrics",
    "LoraMetrics",
    "MOST_BYTES",
    "MetricNames",
    "MetricsError",
    "is_enough",
    "pages_of",
    "read_metrics",
]
