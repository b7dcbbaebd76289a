"""How the routes of a delegate stand within those of its root."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.envoy.translate.samples import meta

from headrace.model.delegation import merged_routes, with_delegates
from headrace.model.traffic import HttpMatch, HttpRoute, MatchKind, StringMatch, VirtualService


def exact(text: str) -> StringMatch:
    return StringMatch(MatchKind.EXACT, text)


def prefix(text: str) -> StringMatch:
    return StringMatch(MatchKind.PREFIX, text)


def regex(text: str) -> StringMatch:
    return StringMatch(MatchKind.REGEX, text)


def service(name: str, *routes: HttpRoute, hosts: tuple[str, ...] = ()) -> VirtualService:
    return VirtualService(meta("networking.istio.io/VirtualService", name), hosts, ("mesh",), routes)


def one(root: HttpMatch, leaf: HttpMatch) -> HttpRoute | None:
    (found,) = merged_routes(HttpRoute(matches=(root,)), service("d", HttpRoute(matches=(leaf,))))
    return found


WITHIN = {
    "a longer prefix": (HttpMatch(uri=prefix("/a")), HttpMatch(uri=prefix("/a/b"))),
    "a path of the prefix": (HttpMatch(uri=prefix("/a")), HttpMatch(uri=exact("/ab"))),
    "the same path": (HttpMatch(uri=exact("/a")), HttpMatch(uri=exact("/a"))),
    "only one asks": (HttpMatch(uri=regex("/a.*")), HttpMatch(method=exact("GET"))),
    "another header": (HttpMatch(headers=(("a", exact("1")),)), HttpMatch(headers=(("b", regex("2")),))),
    "some of its gateways": (HttpMatch(gateways=("mesh", "n/g")), HttpMatch(gateways=("n/g",))),
    "the same namespace": (HttpMatch(source_namespace="n"), HttpMatch(source_namespace="n", port=1)),
}
OUTSIDE = {
    "a shorter prefix": (HttpMatch(uri=prefix("/a/b")), HttpMatch(uri=prefix("/a"))),
    "a prefix of a path": (HttpMatch(uri=exact("/a")), HttpMatch(uri=prefix("/a"))),
    "a pattern": (HttpMatch(uri=prefix("/")), HttpMatch(uri=regex("/a"))),
    "within a pattern": (HttpMatch(uri=regex("/a")), HttpMatch(uri=regex("/a"))),
    "another header value": (HttpMatch(headers=(("a", exact("1")),)), HttpMatch(headers=(("a", exact("2")),))),
    "another case": (HttpMatch(ignore_uri_case=True), HttpMatch(uri=exact("/a"))),
    "another port": (HttpMatch(port=1), HttpMatch(port=2)),
    "other labels": (HttpMatch(source_labels=(("a", "1"),)), HttpMatch(source_labels=(("a", "2"),))),
    "any namespace": (HttpMatch(source_namespace="n"), HttpMatch(port=1)),
    "another gateway": (HttpMatch(gateways=("mesh",)), HttpMatch(gateways=("n/g",))),
}


@pytest.mark.parametrize(("root", "leaf"), WITHIN.values(), ids=WITHIN.keys())
def test_a_match_within_the_roots(root: HttpMatch, leaf: HttpMatch) -> None:
    found = one(root, leaf)
    assert found is not None and len(found.matches) == 1


@pytest.mark.parametrize(("root", "leaf"), OUTSIDE.values(), ids=OUTSIDE.keys())
def test_a_match_outside_of_the_roots(root: HttpMatch, leaf: HttpMatch) -> None:
    assert one(root, leaf) is None


def test_what_the_delegate_leaves_open_is_the_roots() -> None:
    root = HttpRoute(name="root", matches=(HttpMatch(name="r", uri=prefix("/a"), port=80),), timeout=3.0)
    leaf = HttpRoute(name="leaf", matches=(HttpMatch(name="l", uri=exact("/a/b")),))
    (found, timed) = merged_routes(root, service("d", leaf, replace(leaf, name="", timeout=0.0)))
    assert found is not None and timed is not None
    assert (found.name, found.timeout, timed.name, timed.timeout) == ("root-leaf", 3.0, "root", 0.0)
    assert found.matches == (HttpMatch(name="r-l", uri=exact("/a/b"), port=80),)


def test_each_match_goes_with_every_one_of_the_roots_that_holds_it() -> None:
    root = HttpRoute(matches=(HttpMatch(uri=prefix("/a")), HttpMatch(port=80), HttpMatch(uri=prefix("/z"))))
    (found,) = merged_routes(root, service("d", HttpRoute(matches=(HttpMatch(uri=prefix("/a/b")),))))
    assert found is not None
    assert found.matches == (HttpMatch(uri=prefix("/a/b")), HttpMatch(uri=prefix("/a/b"), port=80))


def test_unchanged_documents_give_the_same_objects() -> None:
    plain = service("plain", HttpRoute(name="a"), hosts=("a",))
    assert with_delegates((plain,), ("*",), ()) == (plain,)
    root = service("root", HttpRoute(delegate=("default", "d")), hosts=("b",))
    first = with_delegates((plain, root, service("d", HttpRoute(name="x"))), ("*",), ())
    assert [item.meta.name for item in first] == ["plain", "root"]
    assert [route.name for route in first[1].http] == ["x"]
    delegate = first[1].sources[1]
    assert with_delegates((plain, root, delegate), ("*",), first) is first
    changed = with_delegates((plain, root, service("d", HttpRoute(name="y"))), ("*",), first)
    assert changed[0] is plain and [route.name for route in changed[1].http] == ["y"]


def test_a_delegate_that_is_not_exported_to_the_root_gives_nothing() -> None:
    root = service("root", HttpRoute(delegate=("default", "d")), HttpRoute(name="own"), hosts=("b",))
    delegate = service("d", HttpRoute(name="x"))
    (found,) = with_delegates((root, delegate), ("other",), ())
    assert [route.name for route in found.http] == ["own"]
    (found,) = with_delegates((root, replace(delegate, export_to=(".",))), ("other",), ())
    assert [route.name for route in found.http] == ["x", "own"]
