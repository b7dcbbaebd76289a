"""The filter that verifies tokens, as a workload's RequestAuthentications say, and the clusters that fetch keys.

Called by `guard_filters`. Istio's requirement: a request without a token passes, unless a rule requires its own; one
with a token that no rule accepts is answered 401. Keys come inline, from a file on the proxy's host, or over HTTP: from
a service of the mesh by its cluster, from elsewhere by a cluster of its own, which verifies the server by the host's
roots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2, http_uri_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from google.protobuf import empty_pb2

from headrace.envoy.guards import Guard
from headrace.envoy.resources import CLUSTER, SECRET, XdsResource
from headrace.envoy.translate.endpoints import is_address
from headrace.envoy.translate.file_secrets import file_secret, root_name, root_secret
from headrace.envoy.translate.jwt_claims import JWT_FILTER, PAYLOAD
from headrace.envoy.translate.memo import resource_of
from headrace.envoy.translate.messages import duration, http_filter, packed, socket_address
from headrace.model.destination import ClientTls, TlsMode
from headrace.model.jwks import KeyUri, split_uri
from headrace.model.mesh import MeshConfig
from headrace.model.request_authentication import JwtRule

CACHED_SECONDS = 300
"""How long fetched keys are used before they are fetched again (Istio's number)."""
NOBODYS_KEY = (
    '{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"headrace-nobody",'
    '"x":"S_BAJyWl2OPOLxSpyn1xdB2qzzaQmNDWZDFAxVb9kCo","y":"fCK9SwYooA7mCKHvf5hWqwrftkUperzVt6zPffM2x4I"}]}'
)
"""The keys of a rule that has none: no token is valid. Envoy refuses a set without keys, so this is one that nobody has
the private part of: a point made of a hash, the SHA-256 of `headrace: nobody has this key 3` being its x."""
_SPACE_DELIMITED = ("permission", "scope")
"""Claims whose words are always matched one by one (Istio's)."""
_SYSTEM = ClientTls(TlsMode.SIMPLE)


def jwt_filters(guard: Guard, *, clear_route_cache: bool) -> list[Any]:
    """The filter; none without rules. `clear_route_cache`: routes look at claims, so the route is chosen again."""
    if not guard.rules:
        return []
    named = dict(guard.key_clusters)
    config = config_pb2.JwtAuthentication(bypass_cors_preflight=True)
    for number, rule in enumerate(guard.rules):
        config.providers[_name(number)].CopyFrom(_provider(rule, named, clear_route_cache))
    match = route_components_pb2.RouteMatch(prefix="/")
    config.rules.append(config_pb2.RequirementRule(match=match, requires=_requirement(guard.rules)))
    return [http_filter(JWT_FILTER, config)]


def _name(number: int) -> str:
    return f"origins-{number}"


def _requirement(rules: Sequence[JwtRule]) -> Any:
    """The tokens of all rules that require theirs, and what the others want (JWTRule.presence)."""
    wanted = [_of(_name(number)) for number, rule in enumerate(rules) if rule.required]
    names = [_name(number) for number, rule in enumerate(rules) if not rule.required]
    wanted += [_optional(names)] if names else []
    if len(wanted) == 1:
        return wanted[0]
    return config_pb2.JwtRequirement(requires_all=config_pb2.JwtRequirementAndList(requirements=wanted))


def _optional(names: Sequence[str]) -> Any:
    """One issuer: its token, or none. Several: the token of one of them; or of all of them a token or none, so that no
    invalid token passes beside a valid one in another place."""
    each = [_any([_of(name), config_pb2.JwtRequirement(allow_missing=empty_pb2.Empty())]) for name in names]
    if len(each) == 1:
        return each[0]
    together = config_pb2.JwtRequirement(requires_all=config_pb2.JwtRequirementAndList(requirements=each))
    return _any([*(_of(name) for name in names), together])


def _of(name: str) -> Any:
    return config_pb2.JwtRequirement(provider_name=name)


def _any(requirements: Sequence[Any]) -> Any:
    return config_pb2.JwtRequirement(requires_any=config_pb2.JwtRequirementOrList(requirements=requirements))


def _provider(rule: JwtRule, named: dict[str, str], clear_route_cache: bool) -> Any:
    provider = config_pb2.JwtProvider(
        issuer=rule.issuer,
        audiences=rule.audiences,
        forward=rule.forward,
        from_headers=[config_pb2.JwtHeader(name=name, value_prefix=prefix) for name, prefix in rule.headers],
        from_params=rule.params,
        from_cookies=rule.cookies,
        forward_payload_header=rule.payload_header,
        payload_in_metadata=PAYLOAD,
        claim_to_headers=[
            config_pb2.JwtClaimToHeader(header_name=header, claim_name=claim) for header, claim in rule.claim_headers
        ],
        clear_route_cache=clear_route_cache,
    )
    words = sorted({*_SPACE_DELIMITED, *rule.space_delimited})
    provider.normalize_payload_in_metadata.space_delimited_claims.extend(words)
    if rule.jwks_uri:
        provider.remote_jwks.CopyFrom(_fetched(rule, named.get(rule.jwks_uri) or own_cluster_name(rule.jwks_uri)))
    elif rule.jwks_file:
        provider.local_jwks.CopyFrom(base_pb2.DataSource(filename=rule.jwks_file))
    else:
        provider.local_jwks.CopyFrom(base_pb2.DataSource(inline_string=rule.jwks or NOBODYS_KEY))
    return provider


def _fetched(rule: JwtRule, cluster: str) -> Any:
    """Keys are fetched when the filter is made, and again before they are too old: no request waits for them. Should
    the fetch fail, tokens are refused until it succeeds."""
    return config_pb2.RemoteJwks(
        http_uri=http_uri_pb2.HttpUri(uri=rule.jwks_uri, cluster=cluster, timeout=duration(rule.timeout)),
        cache_duration=duration(CACHED_SECONDS),
        async_fetch=config_pb2.JwksAsyncFetch(),
    )


def own_cluster_name(uri: str) -> str:
    """The cluster that fetches keys from outside the mesh."""
    parts = split_uri(uri)
    return f"jwks|{parts.port}||{parts.host}" if parts is not None else "BlackHoleCluster"


def key_resources(guard: Guard, mesh: MeshConfig) -> tuple[XdsResource, ...]:
    """The clusters of key servers outside the mesh, and the roots that they are verified by."""
    found = [resource_of(CLUSTER, cluster.name, cluster) for cluster in _own_clusters(guard, mesh)]
    if any(cluster.startswith("jwks|") and tls for cluster, tls in _outside(guard)):
        secret = root_secret(_SYSTEM)
        found.append(resource_of(SECRET, secret.name, secret))
    return tuple(found)


def _outside(guard: Guard) -> Iterator[tuple[str, bool]]:
    for _, parts in _key_servers(guard):
        yield f"jwks|{parts.port}||{parts.host}", parts.tls


def _key_servers(guard: Guard) -> Iterator[tuple[str, KeyUri]]:
    """Servers outside the mesh, each once; https wins where a port is written with both schemes."""
    named = dict(guard.key_clusters)
    found: dict[str, KeyUri] = {}
    for rule in guard.rules:
        parts = split_uri(rule.jwks_uri) if rule.jwks_uri and rule.jwks_uri not in named else None
        if parts is not None:
            name = own_cluster_name(rule.jwks_uri)
            if name not in found or parts.tls:
                found[name] = parts
    yield from sorted(found.items(), key=lambda item: item[0])


def _own_clusters(guard: Guard, mesh: MeshConfig) -> Iterator[Any]:
    for name, parts in _key_servers(guard):
        endpoint = endpoint_components_pb2.LbEndpoint(
            endpoint=endpoint_components_pb2.Endpoint(address=socket_address(parts.host, parts.port))
        )
        cluster = cluster_pb2.Cluster(
            name=name,
            type=cluster_pb2.Cluster.STATIC if is_address(parts.host) else cluster_pb2.Cluster.STRICT_DNS,
            dns_lookup_family=cluster_pb2.Cluster.V4_PREFERRED,
            connect_timeout=duration(mesh.connect_timeout),
            load_assignment=endpoint_pb2.ClusterLoadAssignment(
                cluster_name=name,
                endpoints=[endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=[endpoint])],
            ),
        )
        if parts.tls:
            cluster.transport_socket.name = "envoy.transport_sockets.tls"
            cluster.transport_socket.typed_config.CopyFrom(packed(_verified(parts)))
        yield cluster


def _verified(parts: KeyUri) -> Any:
    """TLS to the key server: its certificate must be for its name, by a root that the host trusts."""
    named = not is_address(parts.host)
    context = tls_pb2.UpstreamTlsContext(sni=parts.host if named else "")
    combined = context.common_tls_context.combined_validation_context
    combined.validation_context_sds_secret_config.CopyFrom(file_secret(root_name(_SYSTEM)))
    name = combined.default_validation_context.match_typed_subject_alt_names.add()
    name.san_type = name.DNS if named else name.IP_ADDRESS
    name.matcher.exact = parts.host
    return context
