"""Hand-written static Envoys: the backend that always answers the same, and the bare pair that a mesh is compared to.

The bare pair does the least that could be called the same job: one HTTP connection manager with the router alone on
each side, mutual TLS 1.3 between them with certificates of a Headrace authority, SANs verified, no access log. Read by
mesh_overhead.py; `python rigs/envoys.py DIRECTORY [VERSION]` as a Workload's command runs the backend on $PORT.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from headrace.envoy.binary import find_envoy
from headrace.floor.clock import SystemClock
from headrace.floor.files import write_private
from headrace.identity.authority import Authority
from headrace.identity.keys import PrivateKey
from headrace.model.identity import Identity

ANSWER = json.dumps(
    {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion",
        "created": 1760000000,
        "model": "constant",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A headrace brings water."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 180, "completion_tokens": 6, "total_tokens": 186},
    }
)
_TYPE = "type.googleapis.com/envoy."
_HTTP = f"{_TYPE}extensions.filters.http."
_TLS = f"{_TYPE}extensions.transport_sockets.tls.v3."
DOMAIN = "cluster.local"


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _manager(routes: list[dict[str, Any]], *before: dict[str, Any]) -> dict[str, Any]:
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_HTTP}router.v3.Router"}}
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
            "http_filters": [*before, router],
        },
    }


def _listener(host: str, port: int, chain: dict[str, Any]) -> dict[str, Any]:
    return {"name": "in", "address": _address(host, port), "filter_chains": [chain]}


def _cluster(host: str, port: int, tls: dict[str, Any] | None = None) -> dict[str, Any]:
    cluster: dict[str, Any] = {
        "name": "out",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "out",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(host, port)}}]}],
        },
    }
    if tls:
        cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    return cluster


_FORWARD = [{"match": {"prefix": "/"}, "route": {"cluster": "out", "timeout": "0s"}}]


def client_side(listen: tuple[str, int], server: tuple[str, int], certificates: Path) -> dict[str, Any]:
    """The bare client: plaintext in, mutual TLS out."""
    tls = {
        "@type": f"{_TLS}UpstreamTlsContext",
        "sni": "bench",
        "common_tls_context": _common(certificates, "client", "server"),
    }
    chain = {"filters": [_manager(_FORWARD)]}
    return {"listeners": [_listener(*listen, chain)], "clusters": [_cluster(*server, tls)]}


def server_side(listen: tuple[str, int], backend: tuple[str, int], certificates: Path) -> dict[str, Any]:
    """The bare server: mutual TLS in, plaintext out."""
    tls = {
        "@type": f"{_TLS}DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": _common(certificates, "server", "client"),
    }
    socket = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    chain = {"filters": [_manager(_FORWARD)], "transport_socket": socket}
    return {"listeners": [_listener(*listen, chain)], "clusters": [_cluster(*backend)]}


def constant_server(host: str, port: int, version: str = "") -> dict[str, Any]:
    """A server that reads each request whole and answers ANSWER, with the version as header `x-version`."""
    headers = {"content-type": "application/json"} | ({"x-version": version} if version else {})
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": ANSWER}},
        "response_headers_to_add": [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in headers.items()
        ],
    }
    # Without the buffer Envoy would answer at the end of the headers and close the connection.
    buffer = {
        "name": "envoy.filters.http.buffer",
        "typed_config": {"@type": f"{_HTTP}buffer.v3.Buffer", "max_request_bytes": 1 << 20},
    }
    return {"listeners": [_listener(host, port, {"filters": [_manager([route], buffer)]})]}


def _common(certificates: Path, own: str, peer: str) -> dict[str, Any]:
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(certificates / f"{own}.pem")},
                "private_key": {"filename": str(certificates / f"{own}.key")},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(certificates / "root.pem")},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": _identity(peer).uri}}],
        },
    }


def _identity(name: str) -> Identity:
    return Identity(DOMAIN, "default", name)


def write_certificates(directory: Path) -> None:
    """root.pem, and for client and server NAME.pem and NAME.key, from a new authority below `directory`."""
    authority = Authority.open(directory / "ca", DOMAIN, SystemClock())
    write_private(directory / "root.pem", authority.bundle_pem.encode())
    for name in ("client", "server"):
        key = PrivateKey.generate()
        public = serialization.load_der_public_key(key.public_der())
        assert isinstance(public, ec.EllipticCurvePublicKey)
        leaf = authority.sign(public, _identity(name), 86400.0)
        write_private(directory / f"{name}.pem", leaf.chain_pem.encode())
        write_private(directory / f"{name}.key", key.reveal_pem())


def write_bootstrap(file: Path, resources: dict[str, Any]) -> Path:
    """A bootstrap of static resources; the admin interface is a Unix socket beside it, which is returned."""
    admin = file.with_suffix(".admin")
    bootstrap = {
        "node": {"id": file.stem, "cluster": "bench"},
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        "static_resources": resources,
    }
    write_private(file, json.dumps(bootstrap).encode())
    return admin


def command(bootstrap: Path) -> list[str]:
    """The command line of one Envoy with one worker."""
    words = [str(find_envoy()), "-c", str(bootstrap), "--concurrency", "1", "--disable-hot-restart"]
    return [*words, "--log-level", "error"]


def main() -> None:
    """Become the constant server on $PORT: `envoys.py DIRECTORY [VERSION]`, its files go to the directory."""
    port = int(os.environ["PORT"])
    file = Path(sys.argv[1]) / f"backend-{port}.json"
    write_bootstrap(file, constant_server("127.0.0.1", port, *sys.argv[2:]))
    words = command(file)
    os.execv(words[0], words)


if __name__ == "__main__":
    main()
