"""Listeners, as a Gateway and a ListenerSet have them: ports, host names, certificates, and who may attach routes.

Used by `gateway` and `listener_set`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from headrace.config.documents import Path
from headrace.config.fields import Choice, shown
from headrace.config.kinds.gateway_api.fields import (
    Group,
    Hostname,
    KindName,
    Port,
    SecretRefSpec,
    SectionName,
    SelectorSpec,
    bounded,
    distinct,
    pattern,
    selector_findings,
)
from headrace.config.kinds.server_tls import valid_cipher
from headrace.config.schema import NO_EFFECT, NOT_SUPPORTED, Finding, Spec, refuse
from headrace.model.gateway_api import SERVED, From, Listener, ListenerTls, Namespaces
from headrace.model.policy import GATEWAY_GROUP
from headrace.model.problem import Severity

MAX_LISTENERS = 64
CIPHERS = "gateway.istio.io/tls-cipher-suites"
"""Option of a listener's tls: cipher suites, comma-separated (Istio's)."""
_PROTOCOL = (
    r"[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?|"
    r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[A-Za-z0-9]+"
)
_WITHOUT_TLS = ("HTTP", "TCP", "UDP")

Options = Annotated[dict[str, Annotated[str, BeforeValidator(bounded(0, 4096))]], Field(max_length=16)]


class RouteKindSpec(Spec):
    """RouteGroupKind."""

    group: Group = GATEWAY_GROUP
    kind: KindName


class RouteNamespacesSpec(Spec):
    """RouteNamespaces."""

    from_: Annotated[str, Choice("All", "Selector", "Same")] = "Same"
    selector: SelectorSpec | None = None

    def lower(self) -> Namespaces:
        return Namespaces(From(self.from_), self.selector.lower() if self.selector else None)


class AllowedRoutesSpec(Spec):
    """AllowedRoutes."""

    namespaces: RouteNamespacesSpec = RouteNamespacesSpec()
    kinds: Annotated[list[RouteKindSpec], Field(max_length=8)] = []


class ListenerTlsSpec(Spec):
    """ListenerTLSConfig."""

    mode: Annotated[str, Choice("Terminate", "Passthrough")] = "Terminate"
    certificate_refs: Annotated[list[SecretRefSpec], Field(max_length=64)] = []
    options: Options = {}

    @model_validator(mode="after")
    def _complete(self) -> ListenerTlsSpec:
        if self.mode != "Passthrough" and not (self.certificate_refs or self.options):
            remedy = "Add certificateRefs: the Secret with the certificate and its key."
            raise refuse("TLS that ends at the gateway needs a certificate", remedy, at=("certificateRefs",))
        return self

    @property
    def ciphers(self) -> list[str]:
        """The cipher suites that an option names, valid or not."""
        return [text for text in map(str.strip, self.options.get(CIPHERS, "").split(",")) if text]


class ListenerSpec(Spec):
    """Listener."""

    name: SectionName
    hostname: Hostname | None = None
    port: Port
    protocol: Annotated[str, BeforeValidator(pattern(_PROTOCOL, 255, "a protocol", f"Use {', '.join(SERVED)}."))]
    tls: ListenerTlsSpec | None = None
    allowed_routes: AllowedRoutesSpec = AllowedRoutesSpec()

    @model_validator(mode="after")
    def _fitting(self) -> ListenerSpec:
        if self.protocol in _WITHOUT_TLS and self.tls is not None:
            raise refuse(f"a listener of protocol {self.protocol} has no tls", "Use HTTPS or TLS.", at=("tls",))
        if self.protocol == "HTTPS" and self.tls is not None and self.tls.mode == "Passthrough":
            remedy = "Use protocol TLS to pass connections through."
            raise refuse("an HTTPS listener ends TLS itself", remedy, at=("tls", "mode"))
        if self.protocol == "TLS" and self.tls is None:
            raise refuse("a TLS listener needs tls", "Add tls with mode Terminate or Passthrough.", at=("tls",))
        if self.protocol in ("TCP", "UDP") and self.hostname is not None:
            raise refuse(f"a listener of protocol {self.protocol} has no hostname", "Remove it.", at=("hostname",))
        return self

    def lower(self) -> Listener:
        tls = None
        if self.tls is not None:
            certificates = tuple(ref.lower() for ref in self.tls.certificate_refs)
            tls = ListenerTls(
                terminate=self.tls.mode != "Passthrough",
                certificates=certificates,
                options=tuple(sorted(self.tls.options.items())),
                ciphers=tuple(text for text in self.tls.ciphers if valid_cipher(text)),
            )
        return Listener(
            name=self.name,
            port=self.port,
            protocol=self.protocol,
            hostname=self.hostname or "",
            tls=tls,
            namespaces=self.allowed_routes.namespaces.lower(),
            kinds=tuple((item.group, item.kind) for item in self.allowed_routes.kinds),
        )


def _place(listener: ListenerSpec) -> str:
    return f"{listener.protocol} {listener.port} {listener.hostname or 'any host'}"


Listeners = Annotated[
    list[ListenerSpec],
    Field(min_length=1, max_length=MAX_LISTENERS),
    AfterValidator(distinct(lambda item: item.name, "listener")),
    AfterValidator(distinct(_place, "port, protocol and host")),
]


def listener_findings(listeners: Sequence[ListenerSpec]) -> Iterator[Finding]:
    """What a valid listener asks for and no gateway proxy here can do."""
    for at, listener in enumerate(listeners):
        path: Path = ("spec", "listeners", at)
        place: Path = (*path, "allowedRoutes", "namespaces", "selector")
        yield from selector_findings(listener.allowed_routes.namespaces.selector, place)
        for cipher in listener.tls.ciphers if listener.tls else ():
            if not valid_cipher(cipher):
                message = f"{shown(cipher)} is no cipher suite: it is left out"
                yield Finding((*path, "tls", "options", CIPHERS), message, "", NO_EFFECT, Severity.WARNING)
        if listener.protocol not in SERVED:
            message = f"protocol {shown(listener.protocol)} is not served: the listener is not accepted"
            remedy = f"Use {', '.join(SERVED)}."
            yield Finding((*path, "protocol"), message, remedy, NOT_SUPPORTED, Severity.WARNING)
