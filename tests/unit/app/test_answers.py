"""What the management API says of documents: kinds as people write them, secrets hidden, refusals with a remedy."""

from pathlib import Path

import pytest
from tests.unit.app.documents import GATEWAY, SERVICE

from headrace.app.control_plane import answers
from headrace.app.control_plane.answers import Refused, is_kind
from headrace.app.control_plane.documents import LiveDocuments
from headrace.app.settings import MeshSettings
from headrace.floor.places import Places

SECRET = """
apiVersion: v1
kind: Secret
metadata:
  name: cert
  annotations: {kubectl.kubernetes.io/last-applied-configuration: '{"stringData": {"tls.key": "very-private"}}'}
stringData: {tls.key: very-private, tls.crt: public}
"""

PERMISSIVE = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: PERMISSIVE}}
"""


@pytest.fixture
def live(tmp_path: Path) -> LiveDocuments:
    directory = tmp_path / "documents"
    directory.mkdir()
    (directory / "service.yaml").write_text(SERVICE)
    documents = LiveDocuments(Places.open(tmp_path / "state"), MeshSettings(documents=(str(directory),)), lambda: None)
    documents.load()
    return documents


@pytest.mark.parametrize("word", ["vs", "virtualservice", "VirtualServices", "VirtualService"])
def test_kinds_are_understood_as_people_write_them(word: str) -> None:
    assert is_kind(word, "VirtualService")
    assert not is_kind(word, "Service")


def test_plurals_follow_english() -> None:
    assert is_kind("serviceentries", "ServiceEntry")
    assert is_kind("gateways", "Gateway")
    assert is_kind("services", "Service")
    assert not is_kind("services", "ServiceEntry")


def test_a_document_is_shown_with_its_owner_and_place(live: LiveDocuments) -> None:
    (service,) = answers.documents(live, "svc", None, "chat")
    assert service["spec"]["ports"][0]["port"] == 80
    annotations = service["metadata"]["annotations"]
    assert annotations["headrace.dev/source"].startswith("dir:")
    assert annotations["headrace.dev/place"].endswith("service.yaml:2")


def test_values_of_secrets_are_never_shown(live: LiveDocuments) -> None:
    answers.apply(live, [("cert.yaml", SECRET)])
    shown = answers.documents(live, "secret", None, None)
    assert "very-private" not in repr(shown)
    assert shown[0]["stringData"] == {"tls.key": "(hidden)", "tls.crt": "(hidden)"}


def test_apply_says_what_changed(live: LiveDocuments) -> None:
    assert answers.apply(live, [("g.yaml", GATEWAY)])["applied"] == ["Gateway default/door configured"]
    assert answers.apply(live, [("g.yaml", GATEWAY)])["applied"] == ["Gateway default/door unchanged"]


def test_a_document_of_the_directory_cannot_be_applied_or_deleted_from_outside(live: LiveDocuments) -> None:
    answer = answers.apply(live, [("x.yaml", SERVICE.replace("port: 80", "port: 81"))])
    assert not answer["applied"]
    assert "belongs to dir:" in answer["problems"][0]["message"]
    with pytest.raises(Refused, match=r"belongs to dir:.*[Dd]elete it there"):
        answers.delete(live, "service", "default", "chat")


def test_delete_of_an_applied_document(live: LiveDocuments) -> None:
    answers.apply(live, [("g.yaml", GATEWAY)])
    assert answers.delete(live, "gw", "default", "door") == {"deleted": "Gateway default/door deleted"}
    with pytest.raises(Refused, match="no documents of kind 'gw'"):
        answers.documents(live, "gw", None, None)


def test_strict_mutual_tls_is_added_only_where_no_document_speaks_for_the_mesh(live: LiveDocuments) -> None:
    (added,) = answers.documents(live, "pa", None, None)
    assert added["spec"]["mtls"]["mode"] == "STRICT" and added["metadata"]["namespace"] == "istio-system"
    answers.apply(live, [("pa.yaml", PERMISSIVE)])
    assert [item["metadata"]["name"] for item in answers.documents(live, "pa", None, None)] == ["default"]
    answers.delete(live, "pa", "istio-system", "default")
    assert [item["metadata"]["name"] for item in answers.documents(live, "pa", None, None)] == ["headrace-strict"]
