"""The Kubernetes Gateway API's kinds, one file a kind; `fields` and `filters` are what several of them have.

The bounds, patterns and rules are those of the CRDs of Gateway API 1.6 (experimental channel), which a cluster would
enforce. Lowered to `model.gateway_api`; what the documents mean together is `registry.gateway_api`'s to say.
"""
