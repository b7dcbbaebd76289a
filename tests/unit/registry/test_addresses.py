"""Virtual addresses: who gets one, that they stay, and that no two services share one."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.registry.meshes import Mesh, entry, port, service

from headrace.model.service import Resolution, Service
from headrace.registry.addresses import needs_address, virtual_addresses
from headrace.registry.build import build_snapshot


def key(of: Service) -> tuple[str, str]:
    return (of.namespace, of.host)


def test_a_service_without_an_address_gets_one_of_each_family() -> None:
    chat = service("chat")
    four, six = virtual_addresses([chat])[key(chat)]
    assert ipaddress.IPv4Address(four) in ipaddress.IPv4Network("240.0.0.0/4")
    assert ipaddress.IPv6Address(six) in ipaddress.IPv6Network("2001:2::/48")


def test_what_has_addresses_of_its_own_keeps_them() -> None:
    for have in (
        service("fixed", addresses=("10.96.0.7",)),
        service("headless", headless=True),
        service("wild", resolution=Resolution.NONE),
    ):
        assert not needs_address(have)
        assert virtual_addresses([have]) == {}


def test_addresses_follow_from_the_name_alone() -> None:
    chat, others = service("chat"), [service(f"other-{number}") for number in range(300)]
    alone = virtual_addresses([chat])[key(chat)]
    assert virtual_addresses([*others, chat])[key(chat)] == alone
    assert virtual_addresses([service("chat", namespace="blue")]) != {key(chat): alone}


@given(st.sets(st.from_regex(r"[a-z]{1,8}", fullmatch=True), max_size=60))
def test_no_two_services_share_an_address(names: set[str]) -> None:
    given_ = virtual_addresses([service(name) for name in sorted(names)])
    addresses = [address for pair in given_.values() for address in pair]
    assert len(addresses) == len(set(addresses)) == 2 * len(names)


def test_a_snapshot_gives_them_only_where_asked_and_keeps_its_objects() -> None:
    mesh = Mesh().put(service("chat"), entry("api.example", ports=(port(443),), resolution=Resolution.DNS))
    plain = build_snapshot(mesh, {})
    assert not any(item.addresses for found in plain.services.values() for item in found)
    addressed = build_snapshot(mesh, {}, plain, addressed=True)
    assert all(len(item.addresses) == 2 for found in addressed.services.values() for item in found)
    again = build_snapshot(mesh, {}, addressed, addressed=True)
    assert again.services is addressed.services
    more = build_snapshot(mesh.put(service("other")), {}, again, addressed=True)
    assert more.services["chat.default.svc.cluster.local"][0] is again.services["chat.default.svc.cluster.local"][0]
