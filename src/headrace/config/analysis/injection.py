"""Sidecar injection on a cluster: namespaces that ask for it, Pods that have no proxy, images that do not fit.

IST0102, IST0103, IST0123, IST0146, IST0147, IST0148 and IST0158. Called by `analyse`. Where Headrace runs the workloads
(documents with a Workload), every one has its proxy and nothing of this is said.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from typing import Any

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index
from headrace.config.analysis.webhooks import fits
from headrace.config.analysis.written import Written, items, mapping, pairs, text, within
from headrace.config.text import Parsed, parse
from headrace.model.problem import Problem
from headrace.model.resource import Labels, selects

INJECT = "sidecar.istio.io/inject"
INJECTION = "istio-injection"
REVISION = "istio.io/rev"
MODE = "istio.io/dataplane-mode"
PROXY = "istio-proxy"
"""Name of the sidecar's container."""


def judge_injection(index: Index) -> Iterator[Problem]:
    """Every judgement of injection."""
    if index.hosted:
        return
    values = _injector_values(index)
    injected: set[str] = set()
    by_default = False
    for namespace in index.written.kind("", "Namespace"):
        if namespace.name == "istio-system":
            continue
        yield from _judge_labels(namespace)
        if namespace.labels.get(MODE) == "ambient":
            continue
        config = values.get(_injector(namespace.labels.get(REVISION, "")))
        if config is not None:
            by_default = within(config, "sidecarInjectorWebhook", "enableNamespacesByDefault") is True
        if not namespace.labels.get(INJECTION) and REVISION not in namespace.labels:
            yield _not_injected(namespace, by_default)
        elif namespace.labels.get(INJECTION) == "enabled":
            injected.add(namespace.name)
    for pod in index.written.kind("", "Pod"):
        if pod.namespace in injected and _misses_proxy(pod):
            yield pod.problem(
                Code.POD_WITHOUT_PROXY,
                ("spec", "containers"),
                f"The pod {pod.full_name} is missing the Istio proxy.",
                "Start it anew, so that it is injected; or say sidecar.istio.io/inject: 'false' in its labels.",
            )
    yield from _judge_auto_images(index)
    yield from _judge_proxy_images(index, values)


def _injector(revision: str) -> str:
    """Name of the ConfigMap with a revision's values."""
    return "istio-sidecar-injector" if revision in ("", "default") else f"istio-sidecar-injector-{revision}"


def _injector_values(index: Index) -> dict[str, Any]:
    """The values that injection uses, by the name of their ConfigMap."""
    found: dict[str, Any] = {}
    for written in index.written.kind("", "ConfigMap"):
        if written.name.startswith("istio-sidecar-injector"):
            try:
                found[written.name] = json.loads(text(written.document.data, "data", "values"))
            except (ValueError, RecursionError):
                found[written.name] = {}
    return found


def _judge_labels(namespace: Written) -> Iterator[Problem]:
    """IST0123: labels that want different things."""
    labels = namespace.labels
    wanted = [INJECTION] if INJECTION in labels else []
    if labels.get(INJECTION, "enabled") == "enabled":
        wanted += [name for name in (REVISION, MODE) if name in labels]
    if len(wanted) > 1:
        written = ", ".join(f"{name}={labels[name]}" for name in wanted)
        yield namespace.problem(
            Code.SEVERAL_INJECTION_LABELS,
            ("metadata", "labels", wanted[1]),
            f"The namespace has more than one injection label: {written}.",
            "Keep one: istio-injection goes before istio.io/rev.",
        )


def _not_injected(namespace: Written, by_default: bool) -> Problem:
    place = ("metadata", "name")
    if by_default:
        message = "is enabled for Istio injection, as Istio is configured with enableNamespacesByDefault"
        remedy = "Say so in the namespace: istio-injection=enabled, or disabled."
        return namespace.problem(Code.INJECTED_BY_DEFAULT, place, f"The namespace {message}.", remedy)
    return namespace.problem(
        Code.NAMESPACE_NOT_INJECTED,
        place,
        "The namespace is not enabled for Istio injection.",
        f"Run 'kubectl label namespace {namespace.name} istio-injection=enabled', or mark it istio-injection=disabled.",
    )


def containers(spec: Any) -> Iterator[Any]:
    """All containers of a Pod's specification, init containers last."""
    return chain(items(spec, "containers"), items(spec, "initContainers"))


def _misses_proxy(pod: Written) -> bool:
    wanted = pod.labels.get(INJECT, pod.annotations.get(INJECT, ""))
    if wanted.lower() == "false" or within(pod.spec, "hostNetwork") is True:
        return False
    return not has_proxy(containers(pod.spec))


def has_proxy(found: Iterator[Any]) -> bool:
    """Whether the sidecar is among containers, with an image."""
    first = next((container for container in found if text(container, "name") == PROXY), None)
    return bool(text(first, "image"))


def asks_for_proxy(labels: Labels, annotations: Labels, found: Iterator[Any], namespace: Labels | None) -> bool:
    """Whether a Pod has a sidecar: it is written out, or its labels or annotations, or else its namespace's labels,
    ask for injection."""
    if has_proxy(found):
        return True
    for own in (labels, annotations):
        if INJECT in own:
            return own[INJECT] == "true"
    return namespace is not None and namespace.get(INJECTION) == "enabled"


def _judge_auto_images(index: Index) -> Iterator[Problem]:
    """IST0146 and IST0147: `image: auto` is a place that only injection fills."""
    webhooks = [
        webhook
        for written in index.written.kind("admissionregistration.k8s.io", "MutatingWebhookConfiguration")
        for webhook in items(written.document.data, "webhooks")
        if text(webhook, "name").endswith("istio.io")
    ]
    remedy = "Label the namespace or the Pod for injection."
    for pod in index.written.kind("", "Pod"):
        if (at := _auto_image(pod.spec)) is not None:
            message = f'Pod {pod.name} contains `image: "auto"`, which injection did not replace.'
            yield pod.problem(Code.IMAGE_AUTO_POD, ("spec", "containers", at, "image"), message, remedy)
    namespaces = {written.name: written.labels for written in index.written.kind("", "Namespace")}
    for deployment in index.written.kind("apps", "Deployment"):
        template = mapping(deployment.spec, "template")
        at = _auto_image(within(template, "spec"))
        labels = pairs(template, "metadata", "labels")
        if at is None or _would_inject(webhooks, namespaces.get(deployment.namespace, {}), labels):
            continue
        message = f'Deployment {deployment.name} contains `image: "auto"`, but its Pods are not injected.'
        path = ("spec", "template", "spec", "containers", at, "image")
        yield deployment.problem(Code.IMAGE_AUTO, path, message, remedy)


def _auto_image(spec: Any) -> int | None:
    """The number of the sidecar's container whose image injection is to fill in."""
    for at, container in enumerate(items(spec, "containers")):
        if text(container, "name") == PROXY and text(container, "image") == "auto":
            return at
    return None


def _would_inject(webhooks: list[Any], namespace: Labels, pod: Labels) -> bool:
    return any(
        fits(within(webhook, "namespaceSelector"), namespace) and fits(within(webhook, "objectSelector"), pod)
        for webhook in webhooks
    )


def _judge_proxy_images(index: Index, values: dict[str, Any]) -> Iterator[Problem]:
    """IST0158: Pods that run another proxy than their namespace's revision injects."""
    images = {name: _proxy_image(config) for name, config in values.items()}
    namespaces = {written.name: written for written in index.written.kind("", "Namespace")}
    mismatched: dict[str, list[str]] = defaultdict(list)
    for pod in index.written.kind("", "Pod") if images else ():
        namespace = namespaces.get(pod.namespace)
        if namespace is None or pod.annotations.get("sidecar.istio.io/proxyImage"):
            continue
        if namespace.labels.get(INJECTION) != "enabled" and REVISION not in namespace.labels:
            continue
        wanted = images.get(_injector(namespace.labels.get(REVISION, "default")))
        variants = (wanted, f"{wanted}-{_image_type(index, pod)}")
        for container in containers(pod.spec):
            if wanted is not None and text(container, "name") == PROXY and text(container, "image") not in variants:
                mismatched[pod.namespace].append(pod.name)
    for name, pods in mismatched.items():
        yield namespaces[name].problem(
            Code.PROXY_IMAGE_MISMATCH,
            ("metadata", "name"),
            f"The Istio proxy images of the pods running in the namespace do not match the image defined in the "
            f"injection configuration (pod names: {', '.join(sorted(pods)[:10])}).",
            "Start these Pods anew: this often happens after an upgrade of the control plane.",
        )


def _proxy_image(values: Any) -> str:
    image = text(values, "global", "proxy", "image")
    return image if "/" in image else f"{text(values, 'global', 'hub')}/{image}:{text(values, 'global', 'tag')}"


def _image_type(index: Index, pod: Written) -> str:
    """The variant of the proxy's image (`distroless`): mesh, then ProxyConfigs of root, namespace and workload, then
    the Pod's annotation; the last that says one."""
    root = text(index.mesh_fields, "rootNamespace") or "istio-system"
    found = [text(index.mesh_fields, "defaultConfig", "image", "imageType")]
    configs = index.written.kind("networking.istio.io", "ProxyConfig")
    found += [_variant(config.spec) for config in configs if config.namespace == root]
    for config in configs:
        if config.namespace == pod.namespace != root and within(config.spec, "selector") is None:
            found.append(_variant(config.spec))
    for config in configs:
        selector = pairs(config.spec, "selector", "matchLabels")
        if config.namespace == pod.namespace != root and selector and selects(selector, pod.labels):
            found.append(_variant(config.spec))
    parts = parse(pod.annotations.get("proxy.istio.io/config", ""))
    found += [_variant(part.data) for part in parts if isinstance(part, Parsed)]
    variant = next((name for name in reversed(found) if name), "")
    return "" if variant == "default" else variant


def _variant(fields: Any) -> str:
    return text(fields, "image", "imageType")
