"""ServerTLSSettings of a Gateway: modes, certificates by Secret or file, versions and ciphers. Used by `gateway`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, TypeVar

from pydantic import Field, model_validator

from headrace.config.documents import Path
from headrace.config.fields import Bool, Choice, EnumOf, Text
from headrace.config.kinds.istio_names import no_effect, warning
from headrace.config.schema import Finding, Spec, refuse, to_camel
from headrace.model.gateway import PASSING, ServerTls, ServerTlsMode

_MUTUAL = (ServerTlsMode.MUTUAL, ServerTlsMode.OPTIONAL_MUTUAL)
_ENDING = (ServerTlsMode.SIMPLE, *_MUTUAL)
_MODE_NUMBERS = dict(enumerate(mode.value for mode in ServerTlsMode))
CIPHERS = frozenset(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-RSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA",
        "ECDHE-RSA-AES256-SHA",
        "AES128-GCM-SHA256",
        "AES256-GCM-SHA384",
        "AES128-SHA",
        "AES256-SHA",
        "DES-CBC3-SHA",
    )
)
"""Cipher suites that BoringSSL knows (without pre-shared keys)."""

TlsVersion = Annotated[str, Choice("TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3", numbered=True)]


class CertificateFilesSpec(Spec):
    """ServerTLSSettings.TLSCertificate."""

    server_certificate: Text = ""
    private_key: Text = ""
    ca_certificates: Text = ""


_Item = TypeVar("_Item")
_OneOrTwo = Annotated[list[_Item], Field(min_length=1, max_length=2)]
"""Certificates of different keys, such as RSA and ECDSA; a cluster takes no more either."""


class ServerTlsSpec(Spec):
    """ServerTLSSettings."""

    https_redirect: Bool = False
    mode: Annotated[ServerTlsMode, EnumOf(ServerTlsMode, _MODE_NUMBERS)] = ServerTlsMode.PASSTHROUGH
    server_certificate: Text = ""
    private_key: Text = ""
    ca_certificates: Text = ""
    ca_crl: Text = ""
    credential_name: Text = ""
    credential_names: _OneOrTwo[Text] = []
    ca_cert_credential_name: Text = ""
    tls_certificates: _OneOrTwo[CertificateFilesSpec] = []
    subject_alt_names: list[Text] = []
    verify_certificate_spki: list[Text] = []
    verify_certificate_hash: list[Text] = []
    min_protocol_version: TlsVersion = "TLS_AUTO"
    max_protocol_version: TlsVersion = "TLS_AUTO"
    cipher_suites: list[Text] = []
    ecdh_curves: list[Text] = []
    insecure_skip_verify: Bool | None = None

    @model_validator(mode="after")
    def _sources(self) -> ServerTlsSpec:
        if self.mode is ServerTlsMode.ISTIO_MUTUAL:
            self._refuse_own_certificates()
            return self
        if self.credential_names and self.tls_certificates:
            raise refuse("credentialNames and tlsCertificates exclude each other", "Keep one.", at=("tlsCertificates",))
        if self.server_certificate and self.private_key and (self.tls_certificates or self._by_secret):
            raise refuse("files and credentials exclude each other", "Keep one of them.", at=("serverCertificate",))
        if self.credential_name and self.credential_names:
            raise refuse("credentialName and credentialNames exclude each other", "Keep one.", at=("credentialNames",))
        if self.credential_name and self.tls_certificates:
            raise refuse("credentialName and tlsCertificates exclude each other", "Keep one.", at=("tlsCertificates",))
        if self.mode in _ENDING:
            if not self._by_secret:
                self._check_files()
        elif self.ca_crl and self.credential_name:
            remedy = "Take it out, or put it into the Secret as ca.crl."
            raise refuse("the revocation list of a credential stands in its Secret", remedy, at=("caCrl",))
        return self

    @property
    def _by_secret(self) -> bool:
        return bool(self.credential_name or self.credential_names)

    def _refuse_own_certificates(self) -> None:
        own = {
            "serverCertificate": self.server_certificate,
            "privateKey": self.private_key,
            "caCertificates": self.ca_certificates,
            "tlsCertificates": self.tls_certificates,
            "credentialName": self.credential_name,
            "credentialNames": self.credential_names,
        }
        for name, value in own.items():
            if value:
                raise refuse(f"ISTIO_MUTUAL takes the mesh's certificates, so {name} is not allowed", at=(name,))

    def _check_files(self) -> None:
        if self.mode in _MUTUAL and not self.ca_certificates:
            remedy = "Add caCertificates, or credentialName."
            raise refuse(f"{self.mode} needs certificates to verify clients with", remedy, at=("caCertificates",))
        remedy = "Add it, or credentialName."
        pairs: list[CertificateFilesSpec | ServerTlsSpec] = [*self.tls_certificates] or [self]
        for at, pair in enumerate(pairs):
            base: Path = ("tlsCertificates", at) if self.tls_certificates else ()
            if not pair.server_certificate:
                raise refuse(f"{self.mode} needs serverCertificate", remedy, at=(*base, "serverCertificate"))
            if not pair.private_key:
                raise refuse(f"{self.mode} needs privateKey", remedy, at=(*base, "privateKey"))
        if self.ca_crl and self.mode is ServerTlsMode.SIMPLE:
            raise refuse("SIMPLE verifies no clients, so caCrl means nothing", "Take it out.", at=("caCrl",))


def tls_findings(spec: ServerTlsSpec, path: Path) -> Iterator[Finding]:
    """What Istio only warns of, and what is not done yet."""
    if spec.min_protocol_version in ("TLSV1_0", "TLSV1_1") and not spec.cipher_suites:
        message = "TLS below 1.2 needs ciphers that are not among the default ones"
        yield warning((*path, "minProtocolVersion"), message, "Add cipherSuites, or use TLSV1_2.")
    known: set[str] = set()
    for at, cipher in enumerate(spec.cipher_suites):
        if not valid_cipher(cipher):
            yield warning((*path, "cipherSuites", at), f"{cipher[:80]!r} is not a cipher suite: it is ignored")
        elif cipher in known:
            yield warning((*path, "cipherSuites", at), f"{cipher[:80]!r} stands twice")
        known.add(cipher)
    own = (spec.ca_crl, spec.server_certificate, spec.private_key, spec.ca_certificates, spec.credential_name)
    if spec.mode in PASSING and (any(own) or spec.tls_certificates or spec.credential_names):
        yield warning(path, f"{spec.mode} uses no certificates: they are ignored", "Use SIMPLE, or take them out.")
    yield from _useless(spec, path)


_OF_CLIENTS = ("subject_alt_names", "verify_certificate_spki", "verify_certificate_hash", "insecure_skip_verify")
_OF_HANDSHAKE = ("min_protocol_version", "max_protocol_version", "cipher_suites", "ecdh_curves")
_USELESS = {
    "looks only at the SNI": (
        PASSING,
        (*_OF_CLIENTS, *_OF_HANDSHAKE, "ca_cert_credential_name"),
    ),
    "asks clients for no certificate": (
        (ServerTlsMode.SIMPLE,),
        (*_OF_CLIENTS, "ca_cert_credential_name", "ca_certificates", "ca_crl"),
    ),
    "has the mesh's own rules of certificates and handshakes": (
        (ServerTlsMode.ISTIO_MUTUAL,),
        ("verify_certificate_spki", "verify_certificate_hash", *_OF_HANDSHAKE, "ca_cert_credential_name", "ca_crl"),
    ),
}
"""Why a mode has no use for a field: the modes and the fields. As Istio's, where that sends them on at all."""


def _useless(spec: ServerTlsSpec, path: Path) -> Iterator[Finding]:
    """HR0002 for what is written and has no effect in this mode, or from this source of certificates."""
    for why, (modes, names) in _USELESS.items():
        for name in names if spec.mode in modes else ():
            if name in spec.model_fields_set and getattr(spec, name) not in ("", "TLS_AUTO", None, False, []):
                yield no_effect((*path, to_camel(name)), f"{spec.mode} {why}")
    by_files = spec.mode in _MUTUAL and not (spec.credential_name or spec.credential_names)
    if by_files and spec.ca_cert_credential_name:
        yield no_effect((*path, "caCertCredentialName"), "certificates from files have their CA in caCertificates")
    if spec.mode in _MUTUAL and not by_files and spec.ca_crl:
        yield no_effect((*path, "caCrl"), "the revocation list of a credential stands in its Secret (ca.crl, or crl)")
    for at, pair in enumerate(spec.tls_certificates):
        if pair.ca_certificates:
            place = (*path, "tlsCertificates", at, "caCertificates")
            yield no_effect(place, "all certificates of a server verify clients by its caCertificates")


def valid_cipher(name: str) -> bool:
    """Whether Istio passes the cipher on: a known name, `ALL`, or an expression with an operator."""
    return name in ("", "ALL") or not name[0].isalnum() or name in CIPHERS


def lower_server_tls(spec: ServerTlsSpec) -> ServerTls:
    """The settings, with every certificate that they name."""
    return ServerTls(
        mode=spec.mode,
        https_redirect=spec.https_redirect,
        credentials=tuple(dict.fromkeys(spec.credential_names or filter(None, (spec.credential_name,)))),
        certificates=tuple(dict.fromkeys(_pairs(spec))),
        ca_credential=spec.ca_cert_credential_name,
        ca_certificates=spec.ca_certificates,
        ca_crl=spec.ca_crl,
        insecure_skip_verify=bool(spec.insecure_skip_verify),
        subject_alt_names=tuple(spec.subject_alt_names),
        verify_certificate_spki=tuple(spec.verify_certificate_spki),
        verify_certificate_hash=tuple(spec.verify_certificate_hash),
        min_protocol_version=_version(spec.min_protocol_version),
        max_protocol_version=_version(spec.max_protocol_version),
        cipher_suites=tuple(dict.fromkeys(name for name in spec.cipher_suites if valid_cipher(name))),
        ecdh_curves=tuple(dict.fromkeys(spec.ecdh_curves)),
    )


def _pairs(spec: ServerTlsSpec) -> Iterator[tuple[str, str]]:
    for pair in spec.tls_certificates:
        yield pair.server_certificate, pair.private_key
    if spec.server_certificate and spec.private_key:
        yield spec.server_certificate, spec.private_key


def _version(name: str) -> str:
    return "" if name == "TLS_AUTO" else name
