"""What a process is shown of the file system, and how it is started. Nothing is started here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.agent.capture import Attachment
from headrace.agent.netns import capture as netns
from headrace.agent.netns.capture import NetnsCapture, program_places
from headrace.agent.netns.plan import known_net, mesh_id, mesh_net
from headrace.agent.process import Launch, StartFailed
from headrace.floor.places import Places

ATTACHED = "10.7.0.2"


@pytest.fixture
def strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NetnsCapture:
    """One that is open without having built anything."""
    monkeypatch.setattr(netns, "RUNTIME", tmp_path / "run")
    found = NetnsCapture(Places(tmp_path / "state"), lambda: "s" * 43)
    net = mesh_net(mesh_id(tmp_path / "state"), (), ipv6=True)
    assert net is not None
    found._net = known_net(net.mesh, net.block, ipv6=True)
    etc = tmp_path / "run" / net.mesh / "7" / "etc"
    etc.mkdir(parents=True)
    (etc / "hosts").write_text("127.0.0.1 localhost\n")
    return found


def attachment(strategy: NetnsCapture) -> Attachment:
    place = strategy.net.place(str(strategy.net.block[7]))
    return Attachment(str(place.address), app_ports=((8000, 8000),), namespace=place.namespace)


def test_a_program_is_shown_with_the_installation_that_it_is_part_of(tmp_path: Path) -> None:
    for name in ("env/bin", "env/lib", "plain/bin", "tools"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("env/bin/serve", "plain/bin/serve", "tools/serve"):
        (tmp_path / name).write_text("")
    assert program_places(tmp_path / "env/bin/serve") == {str(tmp_path / "env"), str(tmp_path / "env/bin")}
    assert program_places(tmp_path / "plain/bin/serve") == {str(tmp_path / "plain/bin")}
    (tmp_path / "tools/link").symlink_to(tmp_path / "env/bin/serve")
    assert program_places(tmp_path / "tools/link") >= {str(tmp_path / "tools"), str(tmp_path / "env")}


def test_an_application_is_started_by_the_entering_program(strategy: NetnsCapture, tmp_path: Path) -> None:
    given = attachment(strategy)
    launch = Launch(["sh", "-c", "true"], "mark", {"PATH": "/usr/bin:/bin", "LD_PRELOAD": "x"}, str(tmp_path))
    found = strategy.application(given, launch)
    facts = json.loads(found.command[4])
    place = strategy.net.place(given.address)
    assert (facts["user"], facts["namespace"]) == (place.app_user, f"/run/netns/{place.namespace}")
    assert list(found.command[5:]) == ["sh", "-c", "true"]
    assert "LD_PRELOAD" not in found.environment, "a document's variable would act on a program of root"
    assert found.environment["+LD_PRELOAD"] == "x"
    assert [target for _, target in facts["files"] if target.startswith("/etc/")] == ["/etc/hosts"]
    assert str(tmp_path) in facts["reveal"]


def test_a_program_that_is_not_there_is_said_at_once(strategy: NetnsCapture) -> None:
    with pytest.raises(StartFailed, match="there is no program 'nothing-of-the-kind'"):
        strategy.application(attachment(strategy), Launch(["nothing-of-the-kind"], "m", {"PATH": "/bin"}))


def test_gateways_stay_on_the_machines_own_network(strategy: NetnsCapture) -> None:
    given = Attachment("127.9.0.1", gateway_ports=((80, 8080),))
    launch = Launch(["envoy"], "mark", {})
    assert strategy.proxy(given, launch) is launch
    assert strategy.door("istio-system/gateway-0", given).owner is None
    assert strategy.keep("istio-system/gateway-0", given)


def test_what_was_captured_in_another_way_is_started_anew(strategy: NetnsCapture) -> None:
    assert not strategy.keep("default/chat-0", Attachment("127.9.0.2", app_ports=((8000, 20001),)))
    assert not strategy.keep("default/chat-0", attachment(strategy)), "its namespace is gone (a restart of the machine)"
    assert not strategy.keep("default/chat-0", Attachment("192.0.2.1", namespace="hr-other-1"))


def test_an_attachment_survives_being_written_down(strategy: NetnsCapture) -> None:
    given = attachment(strategy)
    assert Attachment.parse(json.loads(json.dumps(given.as_json()))) == given
    older = given.as_json()
    del older["namespace"], older["address6"]
    assert Attachment.parse(older).namespace == ""
