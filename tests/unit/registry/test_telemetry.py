"""Telemetry of mesh, namespace and workload: what they say together, and which documents count."""

from __future__ import annotations

from headrace.model.mesh import MeshConfig
from headrace.model.policy import PolicyScope
from headrace.model.resource import Metadata, Origin, ResourceKey
from headrace.model.telemetry import AccessLogging, SpanTag, TagSource, Telemetry, Tracing, WorkloadMode
from headrace.registry.extensions import Extensions
from headrace.registry.snapshot import MeshSnapshot
from headrace.registry.telemetry import TraceSettings, settle_logs, settle_traces

CLIENT, SERVER = WorkloadMode.CLIENT, WorkloadMode.SERVER


def document(
    *logs: AccessLogging,
    tracing: tuple[Tracing, ...] = (),
    namespace: str = "default",
    name: str = "t",
    app: str = "",
    order: int = 0,
) -> Telemetry:
    key = ResourceKey("telemetry.istio.io/Telemetry", namespace, name)
    meta = Metadata(key, {}, {}, Origin("s", "f", 1, f"{order:09}"), "")
    return Telemetry(meta, PolicyScope((("app", app),) if app else ()), logs, tracing)


def test_without_a_word_there_is_no_answer() -> None:
    assert settle_logs([], (), SERVER) is None
    assert settle_logs([document()], ("envoy",), SERVER) == {"envoy": ""}
    assert settle_traces([], MeshConfig(), CLIENT) is None


def test_providers_of_the_narrower_document_replace_those_of_the_wider() -> None:
    wide = document(AccessLogging(providers=("a", "b"), expression="x"))
    assert settle_logs([wide, document(AccessLogging(providers=("b",)))], (), SERVER) == {"b": ""}
    assert settle_logs([wide, document(AccessLogging(mode=CLIENT, providers=("c",)))], (), SERVER) == {
        "a": "x",
        "b": "x",
    }


def test_what_names_no_provider_speaks_of_the_inherited_ones() -> None:
    wide = document(AccessLogging(providers=("a",)))
    off = document(AccessLogging(disabled=True))
    assert settle_logs([wide, off], (), SERVER) == {"a": None}
    assert settle_logs([off, wide], ("envoy",), SERVER) == {"a": ""}
    assert settle_logs([off], ("envoy",), SERVER) == {"envoy": None}
    server_off = document(AccessLogging(mode=SERVER, disabled=True))
    assert settle_logs([wide, server_off], (), CLIENT) == {"a": ""}


def test_traces_are_overridden_item_by_item() -> None:
    tag = SpanTag("a", TagSource.LITERAL, "b")
    wide = document(tracing=(Tracing(providers=("zipkin",), sampling=5.0, tags=(tag,)),))
    own = document(tracing=(Tracing(mode=SERVER, sampling=0.0, istio_tags=False), Tracing(mode=CLIENT, disabled=True)))
    assert settle_traces([wide, own], MeshConfig(), SERVER) == TraceSettings("zipkin", False, 0.0, (tag,), True, False)
    assert settle_traces([wide, own], MeshConfig(), CLIENT) == TraceSettings("zipkin", True, 5.0, (tag,))
    assert settle_traces([], MeshConfig(default_spans=("otel", "other")), SERVER) == TraceSettings("otel")


def test_documents_reach_their_own_namespace_and_the_oldest_for_a_whole_one_counts() -> None:
    mesh = document(namespace="istio-system", name="mesh")
    root_selected = document(namespace="istio-system", name="root", app="chat")
    first, second = document(name="first"), document(name="second", order=1)
    own, other = document(name="own", app="chat"), document(name="other", app="other")
    elsewhere = document(namespace="elsewhere")
    found = Extensions(
        MeshSnapshot(MeshConfig(), telemetries=(mesh, root_selected, first, second, own, other, elsewhere))
    )
    assert found.labels == {"app"}
    assert found.telemetries("default", {"app": "chat"}) == (mesh, first, own)
    assert found.telemetries("istio-system", {"app": "chat"}) == (mesh, root_selected)
