"""The values of those annotations whose form Istio's injection checks.

Called by `annotations`. The forms are those of Istio's injection: ports, CIDRs, interfaces, quantities, a ProxyConfig.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from pydantic import ValidationError

from headrace.config.fields import shown
from headrace.config.kinds.proxy_config import ProxyConfigSpec
from headrace.config.text import Parsed, parse

_QUANTITY = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][-+]?\d+)?")
_INTERFACE = re.compile(r"[a-zA-Z0-9_.-]{1,15}")
_BOOLEANS = ("1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False")
_MODES = ("REDIRECT", "TPROXY", "NONE")


def fault_of(name: str, value: str) -> str:
    """What is wrong with the value of an annotation; empty where nothing is, or its form is free."""
    judge = _FORMS.get(name)
    return judge(value) if judge else ""


def _mode(value: str) -> str:
    return "" if value in _MODES else f"{shown(value)} is none of {', '.join(_MODES)}"


def _number(bits: int) -> Callable[[str], str]:
    def judge(value: str) -> str:
        text = value.strip() if bits == 16 else value
        fits = text.isascii() and text.isdigit() and len(text) < 20 and int(text) < 2**bits
        return "" if fits else f"{shown(value)} is not a number from 0 to {2**bits - 1}"

    return judge


_port = _number(16)


def _ports(value: str) -> str:
    if not value.strip():
        return ""
    return next((fault for part in value.strip().split(",") if (fault := _port(part))), "")


def _ranges(value: str) -> str:
    for part in value.split(",") if value else ():
        try:
            ipaddress.ip_interface(part)
        except ValueError:
            return f"{shown(part)} is not a CIDR"
        if "/" not in part:
            return f"{shown(part)} is not a CIDR"
    return ""


def _or_all(judge: Callable[[str], str]) -> Callable[[str], str]:
    return lambda value: "" if value == "*" else judge(value)


def _interfaces(value: str) -> str:
    for part in value.split(",") if value else ():
        if not _INTERFACE.fullmatch(part.strip()):
            return f"{shown(part)} is not the name of a network interface"
    return ""


def _boolean(value: str) -> str:
    return "" if value in _BOOLEANS else f"{shown(value)} is neither true nor false"


def _quantity(value: str) -> str:
    return "" if _QUANTITY.fullmatch(value) else f"{shown(value)} is not a quantity (500m, 128Mi)"


def _proxy_config(value: str) -> str:
    """ProxyConfig as text: fields that are unknown, or values that are wrong."""
    parts = parse(value)
    data = parts[0].data if len(parts) == 1 and isinstance(parts[0], Parsed) else None
    if data is None and not value.strip():
        return ""
    if not isinstance(data, dict):
        return "the value is not YAML of ProxyConfig's fields"
    try:
        ProxyConfigSpec.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return ""


_STATUS = "readiness.status.sidecar.istio.io/"
_TRAFFIC = "traffic.sidecar.istio.io/"
_FORMS: dict[str, Callable[[str], str]] = {
    "sidecar.istio.io/interceptionMode": _mode,
    "status.sidecar.istio.io/port": _port,
    f"{_STATUS}initialDelaySeconds": _number(32),
    f"{_STATUS}periodSeconds": _number(32),
    f"{_STATUS}failureThreshold": _number(32),
    f"{_TRAFFIC}includeOutboundIPRanges": _or_all(_ranges),
    f"{_TRAFFIC}excludeOutboundIPRanges": _ranges,
    f"{_TRAFFIC}includeInboundPorts": _or_all(_ports),
    f"{_TRAFFIC}excludeInboundPorts": _ports,
    f"{_TRAFFIC}excludeOutboundPorts": _ports,
    f"{_TRAFFIC}excludeInterfaces": _interfaces,
    f"{_TRAFFIC}kubevirtInterfaces": _interfaces,
    "istio.io/reroute-virtual-interfaces": _interfaces,
    "prometheus.istio.io/merge-metrics": _boolean,
    "proxy.istio.io/config": _proxy_config,
    "sidecar.istio.io/proxyCPU": _quantity,
    "sidecar.istio.io/proxyMemory": _quantity,
    "sidecar.istio.io/proxyCPULimit": _quantity,
    "sidecar.istio.io/proxyMemoryLimit": _quantity,
}
