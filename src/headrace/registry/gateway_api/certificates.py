"""Certificates that Gateway API documents name: Secrets and ConfigMaps, of other namespaces only where these allow it.

Used by `listeners` and `backend_tls`. A credential is named as Istio does it (`kubernetes-gateway://ns/name`,
`configmap://ns/name`); what stands behind a name is looked up nowhere else than in `References.found`, so that a
document that only writes such a name gets nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from headrace.model.gateway_api import ObjectRef
from headrace.model.security import Secret
from headrace.registry.bundles import ROOTS, SCHEME, bundle
from headrace.registry.gateway_api.conditions import Refusal
from headrace.registry.gateway_api.world import World

_PAIRS = (("cert", "key"), ("tls.crt", "tls.key"))
BAD_CERTIFICATE = "InvalidCertificateRef"
BAD_CA = "InvalidCACertificateRef"
BAD_CA_KIND = "InvalidCACertificateKind"
NOT_PERMITTED = "RefNotPermitted"


@dataclass(slots=True)
class References:
    """The credentials that documents may use, by name; what they are made of before (`previous`) is kept."""

    world: World
    previous: Mapping[str, Secret] = field(default_factory=dict)
    found: dict[str, Secret] = field(default_factory=dict)

    def certificate(self, ref: ObjectRef, owner: tuple[str, str]) -> str | Refusal:
        """The credential of a server's certificate; `owner` is the kind and namespace of the document."""
        namespace = ref.namespace or owner[1]
        if not self.world.allowed(owner, ("", "Secret", namespace), ref.name):
            return Refusal(NOT_PERMITTED, _not_permitted("certificateRef", ref.name, namespace, owner))
        shown = f"{ref.group}/{ref.kind}/{ref.name}.{ref.namespace}"
        if (ref.group, ref.kind) != ("", "Secret"):
            return Refusal(BAD_CERTIFICATE, f"invalid certificate reference {shown}, only secret is allowed")
        secret = self.world.secrets.get((namespace, ref.name))
        if secret is None:
            message = f"invalid certificate reference {shown}, secret {namespace}/{ref.name} not found"
            return Refusal(BAD_CERTIFICATE, message)
        problem = certificate_problem(secret.data)
        if problem:
            return Refusal(BAD_CERTIFICATE, f"invalid certificate reference {shown}, {problem}")
        return self._keep(f"kubernetes-gateway://{namespace}/{ref.name}", secret)

    def authority(self, ref: ObjectRef, owner: tuple[str, str]) -> str | Refusal:
        """The credential of a CA in a ConfigMap or Secret."""
        namespace = ref.namespace or owner[1]
        kind = "Secret" if (ref.group, ref.kind) == ("", "Secret") else "ConfigMap"
        if not self.world.allowed(owner, ("", kind, namespace), ref.name):
            return Refusal(NOT_PERMITTED, _not_permitted("caCertificateRef", ref.name, namespace, owner))
        shown = f"{ref.group}/{ref.kind}/{ref.name}.{ref.namespace}"
        if ref.group or ref.kind not in ("Secret", "ConfigMap"):
            return Refusal(
                BAD_CA_KIND, f"invalid CA certificate reference {shown}, only secret and configmap are allowed"
            )
        data = self._data(kind, (namespace, ref.name))
        if data is None:
            what = f"{kind.lower()} {namespace}/{ref.name} not found"
            return Refusal(BAD_CA, f"invalid CA certificate reference {shown}, {what}")
        problem = authority_problem(data)
        if problem:
            return Refusal(BAD_CA, f"invalid CA certificate reference {shown}, {problem}")
        return self.bundle(kind, namespace, ref.name)

    def bundle(self, kind: str, namespace: str, name: str) -> str:
        """The credential of a CA that was found good."""
        if kind == "Secret":
            return self._keep(f"kubernetes-gateway://{namespace}/{name}", self.world.secrets[namespace, name])
        uri = f"{SCHEME}{namespace}/{name}"
        return self._keep(uri, bundle(self.world.config_maps[namespace, name], self.previous.get(uri)))

    def _data(self, kind: str, place: tuple[str, str]) -> Mapping[str, bytes] | None:
        if kind == "Secret":
            secret = self.world.secrets.get(place)
            return secret.data if secret is not None else None
        config = self.world.config_maps.get(place)
        return {key: text.encode() for key, text in config.data.items()} if config is not None else None

    def _keep(self, uri: str, secret: Secret) -> str:
        self.found[uri] = secret
        return uri


def _not_permitted(field_name: str, name: str, namespace: str, owner: tuple[str, str]) -> str:
    return (
        f'{field_name} {name}/{namespace} not accessible to a Gateway in namespace "{owner[1]}" '
        "(missing a ReferenceGrant?)"
    )


def certificate_problem(data: Mapping[str, bytes]) -> str:
    """What is wrong with a certificate and its key ('' nothing)."""
    pair = next(((data[chain], data[key]) for chain, key in _PAIRS if data.get(chain) and data.get(key)), None)
    if pair is None:
        return "found neither cert and key nor tls.crt and tls.key"
    try:
        certificate = x509.load_pem_x509_certificates(pair[0])[0]
        own = load_pem_private_key(pair[1], None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "the certificate is malformed: no certificate and private key in PEM form"
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if own.public_bytes(*spki) != certificate.public_key().public_bytes(*spki):
        return "the certificate is malformed: the private key is another certificate's"
    return ""


def authority_problem(data: Mapping[str, bytes]) -> str:
    """What is wrong with a CA ('' nothing)."""
    text = next((data[key] for key in ROOTS if data.get(key)), None)
    if text is None:
        return "found neither cacert nor ca.crt"
    try:
        x509.load_pem_x509_certificates(text)
    except ValueError:
        return "the bundle is malformed"
    return ""
