"""The rules of a namespace, as text and as the real nft reads them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.agent.netns.egress import forwarding
from headrace.agent.netns.plan import MeshNet, Place, mesh_id, mesh_net
from headrace.agent.netns.rules import ruleset
from headrace.model.exclusions import PREFIX, ExclusionError, Exclusions


def net(*, ipv6: bool = True) -> MeshNet:
    found = mesh_net(mesh_id(Path("/somewhere")), (), ipv6=ipv6)
    assert found is not None
    return found


def place() -> Place:
    return net().place(str(net().block[7]))


def exclusions(**annotations: str) -> Exclusions:
    return Exclusions.parse({PREFIX + name: value for name, value in annotations.items()})


def test_everything_is_captured_where_nothing_is_said() -> None:
    text = ruleset(place(), Exclusions.parse({}))
    assert "meta l4proto tcp redirect to :15006" in text
    assert "meta l4proto tcp redirect to :15001" in text
    assert f"meta skuid {place().proxy_user} return" in text
    assert str(place().app_user) not in text, "an application's own user must not be an exception"


def test_excluded_ports_and_blocks_are_left_alone() -> None:
    found = exclusions(
        excludeInboundPorts="22, 9100",
        excludeOutboundPorts="5432",
        excludeOutboundIPRanges="192.0.2.1/24,2001:db8::/32",
    )
    text = ruleset(place(), found)
    assert "tcp dport { 22, 9100 } return" in text
    assert "tcp dport { 5432 } return" in text
    assert "ip daddr 192.0.2.0/24 return" in text
    assert "ip6 daddr 2001:db8::/32 accept" in text


def test_included_ones_are_all_that_is_captured() -> None:
    text = ruleset(place(), exclusions(includeInboundPorts="8000", includeOutboundIPRanges="10.0.0.0/8"))
    assert "meta l4proto tcp redirect to :15001" not in text.replace("ip daddr 10.0.0.0/8 meta", "")
    assert "tcp dport { 8000 } redirect to :15006" in text
    everything = ruleset(place(), exclusions(includeInboundPorts="*", includeOutboundIPRanges="*"))
    assert everything == ruleset(place(), Exclusions.parse({}))


def test_nothing_included_means_nothing_captured() -> None:
    text = ruleset(place(), exclusions(includeInboundPorts="", includeOutboundIPRanges=""))
    prerouting = text.partition("chain output")[0]
    assert "redirect" not in prerouting


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("excludeInboundPorts", "http"),
        ("excludeInboundPorts", "0"),
        ("excludeOutboundPorts", "65536"),
        ("includeInboundPorts", "80; drop"),
        ("excludeOutboundIPRanges", "10.0.0.0/33"),
        ("includeOutboundIPRanges", "10.0.0.0/8 accept"),
        ("excludeOutboundIPRanges", "fe80::%; flush ruleset"),
        ("excludeOutboundIPRanges", "fe80::%eth0/64"),
        ("excludeInboundPorts", "\u0663"),
    ],
)
def test_a_value_that_is_none_is_refused_with_its_name(name: str, value: str) -> None:
    with pytest.raises(ExclusionError, match=name):
        exclusions(**{name: value})


@given(
    st.text(max_size=40), st.sampled_from(["excludeInboundPorts", "excludeOutboundIPRanges", "includeOutboundPorts"])
)
def test_no_text_gets_into_the_rules_but_numbers_and_addresses(value: str, name: str) -> None:
    try:
        text = ruleset(place(), exclusions(**{name: value}))
    except ExclusionError:
        return
    plain = ruleset(place(), Exclusions.parse({}))
    new = set("".join(set(text.splitlines()) - set(plain.splitlines())))
    assert new <= set("0123456789abcdefghijklmnopqrstuvwxyz{}:/.,!=_ ")


def nft_reads(text: str) -> str:
    """What the real nft says against the rules; empty where it takes them."""
    command = ["unshare", "--net", "nft", "--check", "--file", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=30).stderr


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("nft") is None, reason="needs root and nft (apt-get install nftables)"
)
def test_the_real_nft_reads_all_of_it() -> None:
    some = exclusions(
        excludeInboundPorts="22,9100",
        excludeOutboundPorts="5432",
        excludeOutboundIPRanges="192.0.2.0/24,2001:db8::/32",
        includeOutboundPorts="443",
        includeOutboundIPRanges="10.0.0.0/8,fd00::/8",
        includeInboundPorts="8000,8001",
    )
    for found in (Exclusions.parse({}), some, exclusions(includeInboundPorts="", includeOutboundIPRanges="")):
        assert nft_reads(ruleset(place(), found)) == ""
    for known in (net(), net(ipv6=False)):
        assert nft_reads(forwarding(known, ["eth0", "wlan0.5"])) == ""
        assert nft_reads(forwarding(known, [])) == ""
