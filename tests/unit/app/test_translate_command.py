"""`headrace translate`: formats, exit codes, and what it says when it cannot answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from headrace.app.cli import main

DOCUMENTS = """
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: app}]}
status: {podIP: 10.0.0.9}
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: door}
spec: {role: gateway, labels: {istio: ingressgateway}}
---
apiVersion: v1
kind: Service
metadata: {name: chat}
spec: {selector: {app: chat}, ports: [{name: http, port: 8000}]}
"""
GATEWAY = """
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: east}
spec:
  selector: {istio: eastgateway}
  servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*"]}]
"""
BAD = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bad}
spec: {hosts: [chat], http: [{timeout: soon}]}
"""


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    path = tmp_path / "documents.yaml"
    path.write_text(DOCUMENTS)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["translate", *map(str, arguments)])
    found = capsys.readouterr()
    return int(ended.value.code or 0), found.out, found.err


def test_json_has_the_four_sections(documents: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "-o", "json", "--proxy", "sidecar/default/client", documents)
    data = json.loads(out)
    assert (code, err, list(data)) == (0, "", ["listeners", "routes", "clusters", "endpoints"])
    assert [item["name"] for item in data["listeners"]] == ["0.0.0.0_8000", "virtualInbound", "virtualOutbound"]
    assert "outbound|8000||chat.default.svc.cluster.local" in [item["name"] for item in data["clusters"]]


def test_every_any_names_its_type(documents: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--proxy", "sidecar/default/client", documents)

    def holders(value: object) -> list[object]:
        if isinstance(value, list):
            return [found for item in value for found in holders(item)]
        if not isinstance(value, dict):
            return []
        own = [value["typed_config"]] if "typed_config" in value else []
        return own + [found for item in value.values() for found in holders(item)]

    found = holders(json.loads(out))
    assert len(found) > 10
    assert all(str(item.get("@type", "")).startswith("type.googleapis.com/envoy.") for item in found)


def test_yaml_and_table(documents: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--proxy", "sidecar/default/client", documents)
    _, as_json, _ = run(capsys, *arguments)
    _, as_yaml, _ = run(capsys, "-o", "yaml", *arguments)
    assert yaml.safe_load(as_yaml) == json.loads(as_json)
    _, table, _ = run(capsys, "-o", "table", *arguments)
    assert table.splitlines()[0].split() == ["TYPE", "NAME"]
    assert "listener  virtualInbound" in table.splitlines()


def test_a_bad_document_is_reported_and_left_out(documents: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents.write_text(DOCUMENTS + BAD)
    code, out, err = run(capsys, "--proxy", "sidecar/default/client", documents)
    assert code == 0
    assert "IST0106" in err and f"{documents}:" in err
    assert json.loads(out)["routes"]


def test_loopback_shape_and_envoys_judgement(documents: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--proxy", "sidecar/default/client", "--capture", "loopback", "--validate", documents)
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert [item["name"] for item in json.loads(out)["routes"]] == ["http_proxy"]


def test_a_gateway_that_up_would_start_by_itself(documents: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents.write_text(DOCUMENTS + GATEWAY)
    code, out, _ = run(capsys, "--proxy", "gateway/istio-system/istio-eastgateway", documents)
    assert code == 0
    assert [item["name"] for item in json.loads(out)["listeners"]] == ["0.0.0.0_8080"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--proxy", "client"), "names no proxy"),
        (("--proxy", "sidecar/default/nobody"), "default/client, default/door"),
        (("--proxy", "sidecar/default/door"), "ask for gateway/default/door"),
        (("--proxy", "waypoint/default/client"), "not supported yet"),
        (("--proxy", "sidecar/default/client", "--capture", "magic"), "transparent or loopback"),
        (("--proxy", "sidecar/default/client", "--mesh-config", "/nonexistent.yaml"), "no such file"),
    ],
)
def test_what_cannot_be_answered_is_one_line_with_a_remedy(
    arguments: tuple[str, ...], said: str, documents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *arguments, documents)
    assert (code, out) == (1, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_wrong_mesh_config_is_an_error(documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mesh = tmp_path / "mesh.yaml"
    mesh.write_text("outboundTrafficPolicy: {mode: SOMETIMES}\n")
    code, _, err = run(capsys, "--proxy", "sidecar/default/client", "--mesh-config", mesh, documents)
    assert code == 1
    assert "the MeshConfig is wrong" in err


def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys)[0] == 2


def test_the_module_stands_only_where_it_is_asked_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "documents.yaml"
    policy = "apiVersion: headrace.dev/v1alpha1\nkind: InferencePolicy\nmetadata: {name: chat}\n"
    path.write_text(DOCUMENTS + f"---\n{policy}spec: {{targetRefs: [{{kind: Service, name: chat}}]}}\n")
    for options, stands in (([], False), (["--module"], True)):
        code, out, _ = run(capsys, "--proxy", "sidecar/default/client", *options, path)
        assert code == 0
        (cluster,) = (item for item in json.loads(out)["clusters"] if item["name"].startswith("outbound|8000||chat"))
        assert ("load_balancing_policy" in cluster) is stands
        assert ("lb_policy" in cluster) is not stands
