"""IST0130 and IST0131: routes that can never be taken."""

from __future__ import annotations

import pytest

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{name: http, port: 80}]}
"""


def rules(*matches: str) -> str:
    """A VirtualService with a rule for each match ('' for none)."""
    routes = [f"{{{f'match: {match}, ' if match else ''}route: [{{destination: {{host: web}}}}]}}" for match in matches]
    head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: rule}\n"
    return f"{head}spec: {{hosts: [web], http: [{', '.join(routes)}]}}\n"


CASES = {
    "different prefixes": (["[{uri: {prefix: /a}}]", "[{uri: {prefix: /b}}]", ""], []),
    "two catch-alls": (["", ""], [("IST0130", "spec.http[1]")]),
    "behind a catch-all": (["", "[{uri: {prefix: /a}}]"], [("IST0130", "spec.http[1]")]),
    "the same match": (
        ["[{uri: {exact: /a}}]", "[{uri: {exact: /a}, name: other}]"],
        [("IST0130", "spec.http[1]"), ("IST0131", "spec.http[1].match[0]")],
    ),
    "one of two is a repetition": (
        ["[{uri: {exact: /a}}]", "[{uri: {exact: /a}}, {uri: {exact: /b}}]"],
        [("IST0131", "spec.http[1].match[0]")],
    ),
    "longer prefix behind a shorter": (
        ["[{uri: {prefix: /v1}}]", "[{uri: {prefix: /v1/chat}}]"],
        [("IST0131", "spec.http[1].match[0]")],
    ),
    "exact path behind its prefix": (
        ["[{uri: {prefix: /v1}}]", "[{uri: {exact: /v1/chat}}]"],
        [("IST0131", "spec.http[1].match[0]")],
    ),
    "longer prefix before a shorter": (["[{uri: {prefix: /v1/chat}}]", "[{uri: {prefix: /v1}}]"], []),
    "the wide one wants a header": (
        ["[{uri: {prefix: /v1}, headers: {a: {exact: b}}}]", "[{uri: {prefix: /v1/chat}}]"],
        [],
    ),
    "the narrow one wants a header": (
        ["[{uri: {prefix: /v1}}]", "[{uri: {prefix: /v1/chat}, headers: {a: {exact: b}}}]"],
        [("IST0131", "spec.http[1].match[0]")],
    ),
    "any value holds every value": (
        ["[{uri: {prefix: /v1}, headers: {a: {}}}]", "[{uri: {prefix: /v1/chat}, headers: {a: {exact: b}}}]"],
        [("IST0131", "spec.http[1].match[0]")],
    ),
    "another method": (
        ["[{uri: {prefix: /v1}, method: {exact: GET}}]", "[{uri: {prefix: /v1/chat}, method: {exact: POST}}]"],
        [],
    ),
    "another port": (["[{uri: {prefix: /v1}, port: 80}]", "[{uri: {prefix: /v1/chat}, port: 81}]"], []),
    "other callers": (
        ["[{uri: {prefix: /v1}, sourceLabels: {a: b}}]", "[{uri: {prefix: /v1/chat}, sourceLabels: {a: c}}]"],
        [],
    ),
    "case of the path": (["[{uri: {prefix: /V1}}]", "[{uri: {prefix: /v1/chat}}]"], []),
    "case does not matter": (
        ["[{uri: {prefix: /V1}, ignoreUriCase: true}]", "[{uri: {prefix: /v1/chat}, ignoreUriCase: true}]"],
        [("IST0131", "spec.http[1].match[0]")],
    ),
    "absent headers": (
        ["[{uri: {prefix: /v1}, withoutHeaders: {a: {}}}]", "[{uri: {prefix: /v1/chat}}]"],
        [],
    ),
}


@pytest.mark.parametrize(("matches", "expected"), CASES.values(), ids=CASES.keys())
def test_routes(check, matches, expected):
    found = check(SERVICE, rules(*matches))
    assert [(problem.code, problem.field) for problem in found] == expected


def test_many_matches_are_judged_in_bounded_time(check):
    text = rules(*(f"[{{uri: {{prefix: /a{number:04}}}}}]" for number in range(1000)))
    assert check(SERVICE, text) == []
