"""Ingresses: are they for the mesh's gateways, and do the services exist that they lead to?

HR0002. Called by `analyse`.
"""

from __future__ import annotations

from collections.abc import Iterator

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index
from headrace.model.ingress import CLASS_ANNOTATION, Ingress, is_ours
from headrace.model.names import service_fqdn
from headrace.model.problem import Problem


def judge_ingresses(index: Index) -> Iterator[Problem]:
    """Every judgement of every Ingress."""
    for ingress in index.ingresses:
        if is_ours(ingress, index.ingress_classes, index.mesh.ingress):
            yield from _judge_backends(index, ingress)
            continue
        yield index.problem(
            ingress.meta,
            Code.NO_EFFECT,
            "spec",
            "This Ingress is not for the mesh's gateways: its class is another controller's, or it has none.",
            f"Annotate it with {CLASS_ANNOTATION}: {index.mesh.ingress.class_name}, or name an IngressClass whose "
            "controller is istio.io/ingress-controller.",
        )


def _judge_backends(index: Index, ingress: Ingress) -> Iterator[Problem]:
    namespace = ingress.meta.namespace
    for at, rule in enumerate(ingress.rules):
        for service in sorted({path.service for path in rule.paths}):
            if index.find_target(service_fqdn(service, namespace), (namespace,)) is None:
                yield index.problem(
                    ingress.meta,
                    Code.NO_EFFECT,
                    f"spec.rules[{at}]",
                    f'The backend service "{service}" is not there: its paths are answered 503.',
                    f"Add the Service {namespace}/{service}, or correct the name.",
                )
