"""Certificates that a policy names by file on the proxy's host, as secrets over ADS.

Called by `cluster_tls` (references) and `translate` (resources). A file in a cluster that cannot be read makes Envoy
refuse the cluster, and with it the whole configuration; as a secret of its own it fails alone. Names are Istio's
(`file-root:PATH`, `file-cert:CERTIFICATE~KEY`); only paths pass through the control plane, never contents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2

from headrace.envoy.resources import SECRET, XdsResource
from headrace.envoy.translate.memo import Memo, resource_of
from headrace.envoy.translate.messages import ads
from headrace.envoy.view import Scope, Target
from headrace.model.destination import ClientTls, DestinationRule, TlsMode

SYSTEM = "system"
SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt"
"""Where the host keeps the roots that it trusts (the first place in which Istio's `system` looks)."""


def root_name(tls: ClientTls) -> str:
    """The secret of the CA that a rule trusts."""
    crl = f"~{tls.ca_crl}" if tls.ca_crl else ""
    return f"file-root:{tls.ca_certificates or SYSTEM}{crl}"


def certificate_name(tls: ClientTls) -> str:
    """The secret of the client certificate that a rule presents."""
    return f"file-cert:{tls.client_certificate}~{tls.private_key}"


def file_secret(name: str) -> Any:
    """A reference to one of these secrets."""
    return secret_pb2.SdsSecretConfig(name=name, sds_config=ads(None))


def root_secret(tls: ClientTls) -> Any:
    """The secret `root_name`: the CA that is trusted, with its revocation list."""
    path = SYSTEM_ROOTS if tls.ca_certificates in ("", SYSTEM) else tls.ca_certificates
    context = common_pb2.CertificateValidationContext(trusted_ca=base_pb2.DataSource(filename=path))
    if tls.ca_crl:
        context.crl.filename = tls.ca_crl
    return secret_pb2.Secret(name=root_name(tls), validation_context=context)


def resources(memo: Memo, scope: Scope) -> tuple[XdsResource, ...]:
    """The secrets that the scope's rules name by file."""
    return memo.latest("file secrets", scope.key, scope.targets, _build, scope.targets)


def _build(targets: Iterable[Target]) -> tuple[XdsResource, ...]:
    found: dict[str, Any] = {}
    for rule in {target.rule for target in targets if target.rule is not None}:
        for tls in _written(rule):
            for secret in _secrets(tls):
                found[secret.name] = secret
    return tuple(resource_of(SECRET, name, found[name]) for name in sorted(found))


def _written(rule: DestinationRule) -> Iterator[ClientTls]:
    """Every tls block of a rule that originates TLS with files."""
    for policy in (rule.policy, *(subset.policy for subset in rule.subsets)):
        if policy is None:
            continue
        for tls in (policy.tls, *(port.tls for port in policy.ports)):
            if tls is not None and tls.mode in (TlsMode.SIMPLE, TlsMode.MUTUAL) and not tls.credential_name:
                yield tls


def _secrets(tls: ClientTls) -> Iterator[Any]:
    if not tls.insecure_skip_verify:
        yield root_secret(tls)
    if tls.mode is TlsMode.MUTUAL:
        certificate = common_pb2.TlsCertificate(
            certificate_chain=base_pb2.DataSource(filename=tls.client_certificate),
            private_key=base_pb2.DataSource(filename=tls.private_key),
        )
        yield secret_pb2.Secret(name=certificate_name(tls), tls_certificate=certificate)
