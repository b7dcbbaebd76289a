"""Who hosts are: tokens, pins, and which certificates are a host's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.identity.hosts import JoinToken, TokenError, agent_identity, check_host, pinned, reserved
from headrace.model.identity import Identity

PIN = "ab" * 32


def test_a_token_is_what_its_text_says_and_hides_its_secret() -> None:
    token = JoinToken(bytes(range(32)), PIN)
    assert JoinToken.parse(f"  {token.text()}\n") == token
    assert token.secret.hex() not in repr(token) and str(token.secret) not in repr(token)


@pytest.mark.parametrize(
    "text",
    ["", "hrj1.", "hrj1.x.y", "x" * 10_000, f"hrj2.{'A' * 43}.{PIN}", f"hrj1.{'A' * 43}.{PIN.upper()}", "hrj1.é.é"],
)
def test_other_texts_are_no_tokens_and_are_not_quoted(text: str) -> None:
    with pytest.raises(TokenError) as caught:
        JoinToken.parse(text)
    assert len(text) < 9 or text not in str(caught.value)


@pytest.mark.parametrize("name", ["", "A", "a_b", "a.b", "a/b", "-a", "a-", "a" * 64, "a\n", "é"])
def test_names_that_are_no_hosts(name: str) -> None:
    with pytest.raises(ValueError, match="host name"):
        check_host(name)


def test_identities_of_the_meshs_own_parts_are_nobody_elses() -> None:
    assert reserved(agent_identity("cluster.local", "b-service-account"))
    assert not reserved(Identity("cluster.local", "default", "headrace-agent_b"))
    assert not reserved(Identity("cluster.local", "istio-system", "istio-ingressgateway-service-account"))


@pytest.mark.parametrize(
    "bundle", ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "é" * 99]
)
def test_bytes_that_are_no_roots_pin_nothing(bundle: str) -> None:
    assert pinned(bundle, PIN) == ""


@given(st.text(max_size=600) | st.builds("hrj1.{}.{}".format, st.text(max_size=44), st.text(max_size=65)))
def test_any_text_is_a_token_or_none(text: str) -> None:
    try:
        token = JoinToken.parse(text)
    except TokenError as error:
        assert not text.strip() or text.strip() not in str(error) or len(text) < 8
    else:
        assert JoinToken.parse(token.text()) == token and len(token.secret) == 32
