"""Webhooks of Istio's injection and validation: do two of them take the same Pod, and can they be reached?

IST0139, IST0163 and IST0164. Called by `analyse`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index
from headrace.config.analysis.written import Written, items, mapping, pairs, text, within
from headrace.model.problem import Problem
from headrace.model.resource import Labels, selects

_GROUP = "admissionregistration.k8s.io"
_REVISION = "istio.io/rev"
_NAMESPACES: tuple[Labels, ...] = ({}, {"istio-injection": "enabled"}, {"istio-injection": "disabled"})
_OBJECTS: tuple[Labels, ...] = ({}, {"sidecar.istio.io/inject": "true"}, {"sidecar.istio.io/inject": "false"})


@dataclass(frozen=True, slots=True)
class _Webhook:
    """One webhook of a configuration, at its place there."""

    owner: Written
    at: int
    fields: Mapping[str, Any]

    @property
    def full_name(self) -> str:
        return f"{self.owner.name}/{text(self.fields, 'name')}"

    def takes(self, namespace: Labels, pod: Labels) -> bool:
        """Whether Pods with these labels, in a namespace with those, pass it."""
        return fits(within(self.fields, "namespaceSelector"), namespace) and fits(
            within(self.fields, "objectSelector"), pod
        )


def fits(selector: Any, labels: Labels) -> bool:
    """Whether a Kubernetes LabelSelector takes the labels; none takes all, one that is wrong takes nothing."""
    if selector is None:
        return True
    if not selects(pairs(selector, "matchLabels"), labels):
        return False
    return all(_fits_expression(expression, labels) for expression in items(selector, "matchExpressions"))


def _fits_expression(expression: Any, labels: Labels) -> bool:
    key, operator = text(expression, "key"), text(expression, "operator")
    values = items(expression, "values")
    match operator:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    return False


def judge_webhooks(index: Index) -> Iterator[Problem]:
    """Every judgement of every webhook of Istio's."""
    injectors = list(injecting_webhooks(index))
    yield from _judge_overlaps(injectors)
    services = {(written.namespace, written.name) for written in index.written.kind("", "Service")}
    for webhook in injectors:
        service = within(webhook.fields, "clientConfig", "service")
        name = (text(service, "namespace"), text(service, "name"))
        if service is not None and name not in services:
            yield webhook.owner.problem(
                Code.INVALID_WEBHOOK,
                ("webhooks", webhook.at, "clientConfig", "service"),
                f"Injector refers to a control plane service that does not exist: {'/'.join(name)}.",
                "Add the Service, or correct its name.",
            )
    yield from _judge_urls(index)


def injecting_webhooks(index: Index) -> Iterator[_Webhook]:
    """The webhooks of all MutatingWebhookConfigurations that are Istio's: by a webhook's name, or a revision."""
    for written in index.written.kind(_GROUP, "MutatingWebhookConfiguration"):
        webhooks = items(written.document.data, "webhooks")
        own = any(text(webhook, "name").endswith("istio.io") for webhook in webhooks)
        if own or _revisions(written.labels, webhooks):
            for at, webhook in enumerate(webhooks):
                yield _Webhook(written, at, mapping(webhook))


def _revisions(labels: Labels, webhooks: Iterable[Any]) -> set[str]:
    """Revisions of Istio's that a configuration names, in its labels or selectors."""
    found = {labels[_REVISION]} if _REVISION in labels else set()
    for webhook in webhooks:
        for field in ("namespaceSelector", "objectSelector"):
            selector = within(webhook, field)
            found |= {value for name, value in pairs(selector, "matchLabels").items() if name == _REVISION}
            for expression in items(selector, "matchExpressions"):
                if text(expression, "key") == _REVISION:
                    found |= {value for value in items(expression, "values") if isinstance(value, str)}
    return found


def _judge_overlaps(webhooks: list[_Webhook]) -> Iterator[Problem]:
    """IST0139 where a Pod with some of the labels that injection looks at would be injected twice."""
    owners = {id(webhook.owner): webhook.owner for webhook in webhooks}.values()
    revisions = set[str]().union(
        *(_revisions(owner.labels, items(owner.document.data, "webhooks")) for owner in owners)
    )
    namespaces = [*_NAMESPACES, *({**base, _REVISION: name} for name in sorted(revisions) for base in _NAMESPACES)]
    objects = [*_OBJECTS, *({**base, _REVISION: name} for name in sorted(revisions) for base in _OBJECTS)]
    overlaps: dict[tuple[int, int], tuple[_Webhook, set[str]]] = {}
    for namespace in namespaces:
        for labels in objects:
            taking = [webhook for webhook in webhooks if webhook.takes(namespace, labels)]
            names = {webhook.full_name for webhook in taking}
            for webhook in taking if len(names) > 1 else ():
                _, others = overlaps.setdefault((id(webhook.owner), webhook.at), (webhook, set()))
                others |= names - {webhook.full_name}
    for webhook, others in overlaps.values():
        yield webhook.owner.problem(
            Code.INVALID_WEBHOOK,
            ("webhooks", webhook.at),
            f"Webhook overlaps with others: {', '.join(sorted(others))}. This may cause injection to occur twice.",
            "Make their selectors exclude each other, or delete one.",
        )


def _judge_urls(index: Index) -> Iterator[Problem]:
    """IST0163 and IST0164 for webhooks that an external control plane may answer."""
    for written in index.written.kind(_GROUP, "ValidatingWebhookConfiguration"):
        if written.name == "istiod-default-validator" or written.name.startswith("istio-validator"):
            yield from _judge_client(written)
    for written in index.written.kind(_GROUP, "MutatingWebhookConfiguration"):
        if written.name.startswith("istio-sidecar-injector"):
            yield from _judge_client(written)


def _judge_client(written: Written) -> Iterator[Problem]:
    for at, webhook in enumerate(items(written.document.data, "webhooks")):
        client, name = within(webhook, "clientConfig"), text(webhook, "name")
        url = within(client, "url")
        place = ("webhooks", at, "clientConfig", "url")
        if url is None:
            if within(client, "service") is None:
                message = f"The webhook {name} says neither a URL nor a Service of its control plane."
                remedy = "Give clientConfig a url or a service."
                yield written.problem(Code.INVALID_EXTERNAL_CONTROL_PLANE, place[:-1], message, remedy)
        elif (host := _host(url)) is None:
            message = f"The URL of the webhook {name} has an invalid format."
            yield written.problem(Code.INVALID_EXTERNAL_CONTROL_PLANE, place, message, "Write https://HOST:PORT/PATH.")
        elif _is_address(host):
            message = f"The URL of the webhook {name} has an IP address ({host}) instead of a host name."
            remedy = "Use a host name that resolves to it, and that the certificate has."
            yield written.problem(Code.CONTROL_PLANE_IS_ADDRESS, place, message, remedy)


def _host(url: Any) -> str | None:
    """The host of a URL; None where it is none."""
    try:
        return urlsplit(url).hostname or "" if isinstance(url, str) else None
    except ValueError:
        return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
