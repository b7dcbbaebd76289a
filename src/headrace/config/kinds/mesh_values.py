"""Values of MeshConfig and its defaultConfig: addresses with ports, trust domains, durations of whole seconds.

Used by `mesh_config` and `proxy_config`. The rules are Istio's (pkg/config/validation/agent).
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

from headrace.config.fields import is_dns_name, parse_duration, shown, text_of
from headrace.config.kinds.istio_names import check_timespan, is_address, why_not_fqdn
from headrace.config.schema import refuse

_HOST_IP = "$(HOST_IP)"
"""What Istio puts in for the address of the machine."""
_ADDRESS = re.compile(r"(?:\[(?P<six>[^\[\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[^:]*)")


def _proxy_address(value: object) -> str:
    """`host:port`, with brackets around an IPv6 address; empty where nothing is written."""
    text = text_of(value, "an address with its port")
    if not text:
        return text
    match = _ADDRESS.fullmatch(text)
    remedy = "Write host:port, or [address]:port."
    if match is None:
        raise refuse(f"{shown(text)} is no host with a port", remedy)
    port = match["port"]
    if not port.isascii() or not port.isdigit() or not 1 <= int(port[:6]) <= 65535:
        raise refuse(f"{shown(text)} has no port from 1 to 65535", remedy)
    host = match["six"] or match["host"] or ""
    if why_not_fqdn(host) and not is_address(host):
        raise refuse(f"{shown(text)} has neither a host name nor an address", remedy)
    return text


def _full_address(value: object) -> str:
    if value == "":
        raise refuse("needs an address", "Write host:port.")
    _proxy_address(value.replace(_HOST_IP, "127.0.0.1", 1) if isinstance(value, str) else value)
    return str(value)


def _whole_seconds(value: object) -> float:
    seconds = check_timespan(value)
    if seconds % 1:
        raise refuse(f"{shown(value)} is finer than a second", "Use whole seconds.")
    return seconds


def _milliseconds(value: object) -> float:
    seconds = parse_duration(value)
    if seconds < 0 or abs(seconds * 1000 - round(seconds * 1000)) > 1e-6:
        raise refuse(f"{shown(value)} is finer than a millisecond", "Use whole milliseconds.")
    return seconds


def _positive(value: object) -> float:
    seconds = parse_duration(value)
    if seconds <= 0:
        raise refuse(f"{shown(value)} is no time to wait", "Use more than 0s.")
    return seconds


def _trust_domain(value: object) -> str:
    text = text_of(value, "a trust domain")
    if not is_dns_name(text.removesuffix(".")):
        raise refuse(f"{shown(text)} is not a trust domain", "Use a DNS name in lower case, such as cluster.local.")
    return text


ProxyAddress = Annotated[str, BeforeValidator(_proxy_address)]
FullAddress = Annotated[str, BeforeValidator(_full_address)]
"""An address that may not be empty."""
WholeSeconds = Annotated[float, BeforeValidator(_whole_seconds)]
Milliseconds = Annotated[float, BeforeValidator(_milliseconds)]
PositiveTime = Annotated[float, BeforeValidator(_positive)]
TrustDomain = Annotated[str, BeforeValidator(_trust_domain)]
