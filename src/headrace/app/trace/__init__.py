"""`headrace trace`, offline: which way a request takes through the mesh that documents describe, and why.

`places` finds the two ends, `walk` follows the request through the proxies (`envoy.trace` decides), `origins` leads
from Envoy's names back to documents, `remedies` says what to do about a refusal.
"""
