"""Documents in, one proxy's resources out: a folder for each case, and every case accepted by the real Envoy.

`case.yaml` says what the case is about, which proxy it asks for and whether that has the native module, which resources
it shows (section → name patterns; without `show`, all), and the codes of the errors that its documents have.
`expected.json` holds what is shown; Envoy judges all resources, shown or not. `UPDATE_GOLDENS=1 pytest tests/goldens`
(or `make goldens`) writes the expectations again: read the difference.
"""

from __future__ import annotations

import fnmatch
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.app import offline
from headrace.envoy.module import check_module
from headrace.envoy.resources import ResourceSet
from headrace.envoy.validation import refusal

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "canary"
CASES = sorted(path.parent.name for path in HERE.glob("*/case.yaml"))


WITHOUT_PODS = "IST0173"
"""Subsets that select nothing: goldens need not describe the workloads of services."""


@dataclass(frozen=True)
class Case:
    about: str
    proxy: str
    capture: str = "transparent"
    module: bool = False
    show: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, name: str) -> Case:
        return cls(**yaml.safe_load((HERE / name / "case.yaml").read_text()))


def load(name: str, input_file: Path | None = None) -> offline.Offline:
    mesh = HERE / name / "mesh.yaml"
    return offline.load([input_file or HERE / name / "input.yaml"], mesh if mesh.exists() else None)


def translated(name: str, input_file: Path | None = None) -> ResourceSet:
    case = Case.read(name)
    found = load(name, input_file)
    lines = [problem.as_line() for problem in found.problems]
    assert sorted({problem.code for problem in found.problems} - {WITHOUT_PODS}) == case.problems, lines
    proxy = offline.find_proxy(found.snapshot, offline.ProxyName.parse(case.proxy), offline.capture_of(case.capture))
    return offline.translate(found, replace(proxy, module=case.module))


def shown(case: Case, data: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    if not case.show:
        return data
    return {
        section: [
            item
            for item in data[section]
            if any(fnmatch.fnmatchcase(item.get("name") or item["cluster_name"], pattern) for pattern in patterns)
        ]
        for section, patterns in case.show.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    case = Case.read(name)
    found = shown(case, offline.as_data(translated(name)))
    assert all(found.values()), f"a pattern of {name} shows nothing: {[key for key in found if not found[key]]}"
    expected = HERE / name / "expected.json"
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_GOLDENS"):
        expected.write_text(text)
    assert json.loads(expected.read_text()) == found
    assert expected.read_text() == text


def test_envoy_accepts_every_golden() -> None:
    assert refusal({name: translated(name) for name in CASES if not Case.read(name).module}) is None


def test_envoy_accepts_every_golden_with_the_native_module() -> None:
    checked = check_module()
    if not checked.usable:
        pytest.skip(checked.problem)
    assert refusal({name: translated(name) for name in CASES if Case.read(name).module}) is None


def test_the_articles_case_holds_the_documents_of_the_example() -> None:
    """examples/canary/articles.yaml and the golden are the same two documents."""
    example = list(yaml.safe_load_all((EXAMPLE / "articles.yaml").read_text()))
    golden = list(yaml.safe_load_all((HERE / "articles" / "input.yaml").read_text()))
    assert len(example) == 2
    assert all(document in golden for document in example)


def test_envoy_accepts_what_the_example_becomes() -> None:
    """Offline, every proxy of examples/canary; running it is another test's business."""
    mesh = offline.load([EXAMPLE])
    names = ["sidecar/default/client", "sidecar/default/model-v1", "gateway/istio-system/istio-ingressgateway"]
    sets = {}
    for name in names:
        for capture in ("transparent", "loopback"):
            proxy = offline.find_proxy(mesh.snapshot, offline.ProxyName.parse(name), offline.capture_of(capture))
            sets[f"{name}/{capture}"] = offline.translate(mesh, proxy)
    assert mesh.problems == ()
    assert refusal(sets) is None


@pytest.mark.parametrize("name", ["defaults", "subsets", "tls-modes", "gateway-http", "entry-static", "export"])
def test_order_of_documents_that_do_not_conflict_changes_no_byte(name: str, tmp_path: Path) -> None:
    parts = (HERE / name / "input.yaml").read_text().split("\n---\n")
    turned = tmp_path / "input.yaml"
    turned.write_text("\n---\n".join(reversed(parts)))
    assert len(parts) > 2
    assert versions(translated(name)) == versions(translated(name, turned))


def versions(resources: ResourceSet) -> dict[tuple[str, str], str]:
    """The content hash of every resource."""
    return {(kind, name): item.version for kind, found in resources.by_type.items() for name, item in found.items()}
