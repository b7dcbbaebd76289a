"""The commands against a running mesh: what they print, how they refuse, and that no secret gets out."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator

import pytest
import yaml
from tests.e2e.conftest import StartMesh
from tests.e2e.load import burst, through_client, through_gateway
from tests.e2e.running import Done, RunningMesh, until
from tests.e2e.shop import shop, weights

SECRET_VALUE = "the-value-of-a-secret"
SECRET = f"""\
apiVersion: v1
kind: Secret
metadata: {{name: token}}
stringData: {{password: {SECRET_VALUE}}}
data: {{key: {base64.b64encode(SECRET_VALUE.encode()).decode()}}}
"""
EXTRA = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: extra}
spec:
  hosts: [extra.example]
  http: [{directResponse: {status: 418, body: {string: teapot}}}]
"""


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> Iterator[RunningMesh]:
    yield start_mesh(shop(100, 0) | {"secret.yaml": SECRET})


def refused(done: Done, *words: str) -> None:
    """A command that failed as it should: exit code 1, one line on standard error with these words, no traceback."""
    assert done.code == 1, done
    assert len(done.err.splitlines()) == 1 and "Traceback" not in done.err, done.err
    assert all(word in done.err for word in words), done.err


def test_proxy_status(mesh: RunningMesh) -> None:
    table = mesh.run("proxy", "status")
    assert table.code == 0 and table.out.splitlines()[0].split()[:2] == ["PROXY", "STATE"]
    rows = mesh.run("proxy", "status", "-o", "json").json()
    assert {row["proxy"] for row in rows} == {
        "default/chat-v1-0",
        "default/chat-v1-1",
        "default/chat-v2-0",
        "default/chat-v2-1",
        "default/client-0",
        "istio-system/istio-ingressgateway-0",
    }
    for row in rows:
        assert row["state"] == "ready" and row["connected"] and row["problem"] is None, row
        assert all(re.fullmatch(r"[0-9a-f]{8}", row[kind]) for kind in ("clusters", "listeners", "endpoints", "routes"))
        assert 0 < row["push_ms"] < 5000
    assert yaml.safe_load(mesh.run("proxy", "status", "-o", "yaml").out)[0]["state"] == "ready"


def test_proxy_config_and_logs(mesh: RunningMesh) -> None:
    dump = mesh.run("proxy", "config", "client-0").json()
    kinds = {item["@type"].rpartition(".")[2] for item in dump["configs"]}
    assert {"BootstrapConfigDump", "ClustersConfigDump", "ListenersConfigDump", "RoutesConfigDump"} <= kinds
    assert "chat.default.svc.cluster.local" in json.dumps(dump)
    assert mesh.run("proxy", "logs", "default/client-0").code == 0
    assert "simulated model server" in mesh.run("proxy", "logs", "chat-v1-0", "--app").out
    refused(mesh.run("proxy", "config", "nobody-0"), "nobody-0", "default/client-0")


def test_apply_get_delete(mesh: RunningMesh) -> None:
    path = mesh.root / "extra.yaml"
    path.write_text(EXTRA)
    done = mesh.run("apply", "-f", str(path))
    assert (done.code, done.out.strip().rpartition(" ")[2]) == (0, "configured"), done
    assert mesh.run("apply", "-f", str(path)).out.strip().endswith("unchanged")
    target = through_client(mesh, "extra.example")
    until(lambda: burst(target, 1).answers[0].status == 418, "the document is in force")
    found = mesh.run("get", "virtualservice", "extra", "-o", "json").json()
    assert found["spec"]["hosts"] == ["extra.example"]
    assert found["metadata"]["annotations"]["headrace.dev/source"] == "api"
    listed = mesh.run("get", "vs", "-n", "default")
    assert {line.split()[2] for line in listed.out.splitlines()[1:]} == {"chat", "extra", "public"}

    stale = yaml.safe_load(EXTRA)
    stale["metadata"]["resourceVersion"] = "1"
    (mesh.root / "stale.yaml").write_text(yaml.safe_dump(stale))
    conflict = mesh.run("apply", "-f", str(mesh.root / "stale.yaml"))
    assert conflict.code == 1 and "changed meanwhile" in conflict.err

    assert mesh.run("delete", "vs", "extra").code == 0
    until(lambda: burst(target, 1).answers[0].status != 418, "the document is out of force")
    refused(mesh.run("delete", "vs", "extra"), "no vs called 'extra'")
    refused(mesh.run("get", "vs", "extra"), "no vs called 'extra'")
    refused(mesh.run("get", "nonsense"), "nonsense", "VirtualService")
    refused(mesh.run("apply", "-f", "/nowhere.yaml"), "/nowhere.yaml")


def test_good_documents_of_a_bad_file_come_into_force(mesh: RunningMesh) -> None:
    path = mesh.root / "mixed.yaml"
    path.write_text(EXTRA + "---\n" + EXTRA.replace("name: extra", "name: bad").replace("hosts:", "hostz:"))
    done = mesh.run("apply", "-f", str(path), "-o", "json")
    assert done.code == 1
    answer = json.loads(done.out)
    assert [item for item in answer["applied"] if "extra" in item and item.endswith("configured")]
    assert {(item["line"], item["severity"]) for item in answer["problems"] if "hostz" in item["message"]} == {
        (12, "error")
    }
    assert mesh.run("delete", "vs", "extra").code == 0


def test_a_document_of_the_directory_belongs_to_the_directory(mesh: RunningMesh) -> None:
    path = mesh.root / "mine.yaml"
    path.write_text(weights(0, 100))
    done = mesh.run("apply", "-f", str(path))
    owner = f"dir:{mesh.documents}"
    assert done.code == 1 and owner in done.err and f"{mesh.documents}/routes.yaml:1" in done.err, done.err
    refused(mesh.run("delete", "vs", "chat"), owner)
    assert burst(through_client(mesh), 20).models() == {"v1": 20}


def test_describe(mesh: RunningMesh) -> None:
    text = mesh.run("describe", "service", "chat")
    assert text.code == 0
    assert f"{mesh.documents}/routes.yaml" in text.out and f"{mesh.documents}/service.yaml" in text.out
    data = mesh.run("describe", "service", "chat", "-o", "json").json()
    assert json.dumps(data).count('"mutual tls": "yes"') == 4 and "300" in json.dumps(data)
    workload = mesh.run("describe", "workload", "chat-v1", "-o", "json").json()
    assert "default/chat-v1-1" in json.dumps(workload)
    refused(mesh.run("describe", "service", "nobody"), "nobody")
    assert mesh.run("describe", "nonsense", "chat").code == 2


def test_no_mesh(mesh: RunningMesh) -> None:
    nowhere = mesh.root / "nowhere"
    for command in (["get", "all"], ["proxy", "status"], ["apply", "-f", str(mesh.documents)], ["down"]):
        refused(mesh.run(*command, "--state", str(nowhere), state=False), "no mesh runs at")
    assert mesh.run("nonsense", state=False).code == 2


def test_no_secret_gets_out(mesh: RunningMesh) -> None:
    assert burst(through_gateway(mesh), 5).failed == 0
    passwords = [mesh.secret(name) for name in ("default/client-0", "default/chat-v1-0")]
    assert all(len(password) >= 32 for password in passwords)
    encoded = base64.b64encode(SECRET_VALUE.encode()).decode()
    secrets = [*passwords, SECRET_VALUE, encoded, "PRIVATE KEY"]
    shown = {"status": json.dumps(mesh.status()), "up": (mesh.places.logs / "up.log").read_text()}
    for command in ("proxy status -o json", "get all -o json", "get secret token -o yaml", "describe service chat"):
        shown[command] = mesh.run(*command.split()).out
    for name in mesh.proxies():
        shown[f"config {name}"] = mesh.run("proxy", "config", name).out
        shown[f"log {name}"] = mesh.run("proxy", "logs", name, "--tail", "10000").out
    for path in mesh.places.logs.iterdir():
        shown[str(path)] = path.read_text(errors="replace")
    assert "token" in shown["get all -o json"] and all(shown[f"config {name}"] for name in mesh.proxies())
    leaks = [f"{place}: {secret[:12]}" for place, text in shown.items() for secret in secrets if secret in text]
    assert not leaks, leaks
    basic = [
        base64.b64encode(f"{name}:{password}".encode()).decode()
        for name, password in zip(("client-0", "chat-v1-0"), passwords, strict=True)
    ]
    assert not [place for place, text in shown.items() if any(line in text for line in basic)]


def test_what_is_private_is_private_on_disk(mesh: RunningMesh) -> None:
    paths = [mesh.state, *mesh.state.rglob("*"), mesh.places.sockets, *mesh.places.sockets.iterdir()]
    modes = {path: path.lstat().st_mode & 0o777 for path in paths if not path.is_symlink()}
    loose = [f"{path} {mode:o}" for path, mode in modes.items() if mode & 0o077]
    assert not loose, loose
    keys = [path for path in mesh.state.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert {path.parent for path in keys} == {mesh.places.ca}, "keys of replicas live in memory only"
