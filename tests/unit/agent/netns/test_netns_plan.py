"""Addresses, names and users of transparent capture."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.agent.netns.plan import known_net, mesh_id, mesh_net

MESH = mesh_id(Path("/somewhere/.headrace"))


def test_the_same_state_directory_gives_the_same_addresses() -> None:
    assert mesh_net(MESH, (), ipv6=True) == mesh_net(mesh_id(Path("/somewhere/.headrace")), (), ipv6=True)
    assert mesh_id(Path("/elsewhere/.headrace")) != MESH


def test_a_block_in_use_is_left_alone() -> None:
    first = mesh_net(MESH, (), ipv6=True)
    assert first is not None
    for taken in (str(first.block), str(first.block[77]), str(first.block.supernet(4)), f"{first.block[1]}/20"):
        other = mesh_net(MESH, (taken, "192.168.0.0/16", "fd00::/64", "nonsense"), ipv6=True)
        assert other is not None
        assert not other.block.overlaps(ipaddress.ip_network(taken, strict=False))


def test_a_default_route_over_all_of_ten_is_no_hindrance_and_a_full_pool_is_said() -> None:
    assert mesh_net(MESH, ("10.0.0.0/8", "0.0.0.0/0"), ipv6=False) is not None
    assert mesh_net(MESH, ("10.0.0.0/9", "10.128.0.0/9"), ipv6=False) is None


def test_a_mesh_that_is_there_is_found_by_its_block() -> None:
    net = mesh_net(MESH, (), ipv6=True)
    assert net is not None
    assert known_net(MESH, net.block, ipv6=True) == net


def test_interface_names_fit_the_kernels_limit() -> None:
    net = mesh_net(MESH, (), ipv6=True)
    assert net is not None
    assert len(net.uplink) <= 15
    assert len(net.place(str(net.block[-2])).port) <= 15


@given(st.integers(2, 4094), st.integers(2, 4094))
def test_no_two_replicas_share_anything(one: int, other: int) -> None:
    net = mesh_net(MESH, (), ipv6=True)
    assert net is not None
    first, second = net.place(str(net.block[one])), net.place(str(net.block[other]))
    mine = {first.namespace, str(first.address), str(first.address6), first.port, first.app_user, first.proxy_user}
    others = {second.namespace, str(second.address), str(second.address6), second.port}
    others |= {second.app_user, second.proxy_user}
    assert bool(mine & others) == (one == other)
    assert first.app_user != first.proxy_user
    assert first.app_user > 60_000
    assert first.address6 in net.unique if net.unique else False


def test_an_address_of_another_mesh_has_no_place() -> None:
    net = mesh_net(MESH, (), ipv6=False)
    assert net is not None
    with pytest.raises(ValueError, match="is not one of"):
        net.place("192.0.2.1")
    assert net.place(str(net.block[5])).address6 is None


def test_every_address_given_out_is_inside_and_nobody_elses() -> None:
    net = mesh_net(MESH, (), ipv6=False)
    assert net is not None
    found = list(net.addresses())
    assert len(found) == len(set(found)) == 4093
    assert str(net.gateway) not in found
    assert str(net.block.broadcast_address) not in found
