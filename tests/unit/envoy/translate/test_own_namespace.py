"""A sidecar with a namespace of its own: both families, names, the application at 127.0.0.1. The real Envoy judges."""

from __future__ import annotations

from typing import Any

from tests.unit.registry.meshes import Mesh, port, replica, service, sidecar, workload

from headrace.envoy import readable
from headrace.envoy.resources import CLUSTER, LISTENER, ResourceSet
from headrace.envoy.scopes import Scopes, view_of
from headrace.envoy.translate import Translator
from headrace.envoy.validation import refusal
from headrace.model.proxy import Capture
from headrace.model.service import Protocol
from headrace.registry.build import build_snapshot

OWN = Capture(app_ports=((8000, 20001),), own_namespace=True)
CHAT = workload("chat")


def mesh() -> Mesh:
    found = Mesh().put(
        CHAT,
        service("chat", port(80, target=8000)),
        service("store", port(6379, Protocol.REDIS)),
        service("other", namespace="blue"),
        service("each", port(9000, Protocol.TCP), selector={"app": "chat"}, headless=True),
    )
    return found.observe(replica(CHAT, 0, "10.7.0.2"), replica(CHAT, 1, "10.7.0.3"))


def translated(translator: Translator, capture: Capture, scopes: Scopes, found: Mesh | None = None) -> ResourceSet:
    found = found or mesh()
    proxy = sidecar("chat", address="10.7.0.2", capture=capture)
    snapshot = build_snapshot(found, found.replicas, addressed=True)
    return translator.resources(view_of(snapshot, proxy, scopes))


def listeners(resources: ResourceSet) -> dict[str, Any]:
    return {name: readable.as_data(item) for name, item in resources.of_type(LISTENER).items()}


def addresses(listener: dict[str, Any]) -> list[str]:
    more = [item["address"] for item in listener.get("additional_addresses", [])]
    return [item["socket_address"]["address"] for item in (listener["address"], *more)]


def names(resources: ResourceSet) -> dict[str, list[str]]:
    config = listeners(resources)["names"]["listener_filters"][0]["typed_config"]
    domains = config["server_config"]["inline_dns_table"]["virtual_domains"]
    return {item["name"]: item["endpoint"]["address_list"]["address"] for item in domains}


def test_envoy_takes_it() -> None:
    assert refusal({"": translated(Translator(), OWN, Scopes())}) is None


def test_listeners_on_any_address_take_both_families() -> None:
    found = listeners(translated(Translator(), OWN, Scopes()))
    for name in ("0.0.0.0_80", "virtualOutbound", "virtualInbound", "names"):
        assert set(addresses(found[name])) == {"0.0.0.0", "::"}, name
    assert any(name.startswith("2001:2::") and name.endswith("_6379") for name in found)


def test_every_form_of_a_name_is_answered() -> None:
    found = names(translated(Translator(), OWN, Scopes()))
    forms = ("chat", "chat.default", "chat.default.svc", "chat.default.svc.cluster.local")
    assert len({tuple(found[form]) for form in forms}) == 1
    assert len(found["chat"]) == 2
    assert found["other.blue"] == found["other.blue.svc.cluster.local"]
    assert "other" not in found, "a short name is one of the caller's own namespace"


def test_a_headless_service_is_found_at_its_endpoints() -> None:
    assert names(translated(Translator(), OWN, Scopes()))["each"] == ["10.7.0.2", "10.7.0.3"]


def test_the_application_is_called_where_it_listens() -> None:
    clusters = translated(Translator(), OWN, Scopes()).of_type(CLUSTER)
    local = readable.as_data(clusters["inbound|8000||"])
    endpoint = local["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    assert (endpoint["address"], endpoint["port_value"]) == ("127.0.0.1", 20001)
    through = readable.as_data(clusters["InboundPassthroughCluster"])
    source = through["upstream_bind_config"]
    assert source["source_address"]["address"] == "127.0.0.6"
    assert source["extra_source_addresses"][0]["address"]["address"] == "::6"


def test_other_sidecars_of_the_scope_stay_as_they_are() -> None:
    """The overlay shares a translator with proxies of the plain transparent shape."""
    translator, scopes, found = Translator(), Scopes(), mesh()
    plain = translated(Translator(), Capture(), Scopes(), found)
    translated(translator, OWN, scopes, found)
    beside = translated(translator, Capture(), scopes, found)
    for type_url in plain.by_type:
        mine = {name: item.version for name, item in beside.of_type(type_url).items()}
        assert mine == {name: item.version for name, item in plain.of_type(type_url).items()}


def test_the_table_of_names_is_made_once_for_all_replicas() -> None:
    translator, scopes, found = Translator(), Scopes(), mesh()
    snapshot = build_snapshot(found, found.replicas, addressed=True)
    for number in range(5):
        proxy = sidecar(f"chat-{number}", address=f"10.7.0.{number + 2}", capture=OWN, workload="chat")
        translator.resources(view_of(snapshot, proxy, scopes))
    assert translator.memo.built["names"] == 1
    moved = found.observe(replica(CHAT, 2, "10.7.0.4"))
    assert names(translated(translator, OWN, scopes, moved))["each"] == ["10.7.0.2", "10.7.0.3", "10.7.0.4"]


def test_an_unchanged_mesh_gives_the_same_objects() -> None:
    translator, scopes, found = Translator(), Scopes(), mesh()
    first = translated(translator, OWN, scopes, found).of_type(LISTENER)
    second = translated(translator, OWN, scopes, found).of_type(LISTENER)
    assert {name: item.version for name, item in first.items()} == {name: item.version for name, item in second.items()}
