"""A compromised application tries to get past its proxy, out of its namespace, or at its proxy's secrets.

Every attack runs as the application's own user, in its namespace, without any privilege; each must fail, and for the
reason that is named here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.conftest import StartMesh
from tests.e2e.netns_rig import DOCUMENTS, as_app, get, leftovers, needs_netns, place_of, script, workload
from tests.e2e.running import RunningMesh, until

pytestmark = needs_netns
ATTACKER = "default/stranger-0"
VICTIM = "default/chat-0"
HIDING = 'import subprocess; subprocess.Popen(["env", "-i", "setsid", "sleep", "3601"]); import time; time.sleep(3602)'
"""A process that leaves its process group and takes every mark from its environment."""


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> Iterator[RunningMesh]:
    running = start_mesh({**DOCUMENTS, "hiding.yaml": workload("hiding", HIDING)}, "--capture", "netns")
    yield running
    hidden = subprocess.run(["pgrep", "-f", "^sleep 3601$"], capture_output=True, text=True).stdout.split()
    assert hidden, "nothing hid, so nothing was shown"
    running.down()
    left = subprocess.run(["pgrep", "-f", "^sleep 3601$"], capture_output=True, text=True).stdout.split()
    assert not set(hidden) & set(left), "a process hid from its supervisor"
    assert leftovers(running.state) == []


def attempt(mesh: RunningMesh, text: str, **facts: Any) -> str:
    """The name of the error that the attempt ends with, `done` where it succeeds."""
    names = "\n".join(f"{name} = {value!r}" for name, value in facts.items())
    body = "\n".join(f"    {line}" for line in text.strip().splitlines())
    found = script(
        mesh,
        ATTACKER,
        f"import ctypes, errno, json, os, socket\nlibc = ctypes.CDLL(None, use_errno=True)\n{names}\n"
        "def call(name, *arguments):\n"
        "    if getattr(libc, name)(*arguments) < 0:\n"
        "        number = ctypes.get_errno(); raise OSError(number, name)\n"
        "socket.setdefaulttimeout(5)\n"
        f"try:\n{body}\n    print(json.dumps('done'))\n"
        "except OSError as error:\n"
        "    print(json.dumps(errno.errorcode.get(error.errno, type(error).__name__)))\n",
    )
    return str(found)


SOCKETS = {
    "a raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)",
    "a raw socket of IPv6": "socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_TCP)",
    "a packet socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)",
    "a ping socket": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)",
    "a mark on its packets": "socket.socket().setsockopt(socket.SOL_SOCKET, 36, 1)",
    "a transparent socket": "socket.socket().setsockopt(socket.SOL_IP, 19, 1)",
}


@pytest.mark.parametrize("name", SOCKETS)
def test_no_socket_that_goes_around_the_rules(mesh: RunningMesh, name: str) -> None:
    assert attempt(mesh, SOCKETS[name]) in ("EPERM", "EACCES")


USERS = {
    "user 0": "os.setuid(0)",
    "the proxy's user": "os.setuid(proxy)",
    "the proxy's user for files": "call('setfsuid', proxy)\nopen(bootstrap).read()",
    "the group of root": "os.setgroups([0])",
    "new privileges": "call('prctl', 38, 0, 0, 0, 0)",
}


@pytest.mark.parametrize("name", USERS)
def test_no_other_user(mesh: RunningMesh, name: str) -> None:
    place = place_of(mesh, ATTACKER)
    bootstrap = f"/run/headrace/{place.net.mesh}/{place.number}/bootstrap.json"
    assert attempt(mesh, USERS[name], proxy=place.proxy_user, bootstrap=bootstrap) in ("EPERM", "EACCES", "EINVAL")


def test_programs_with_the_set_user_bit_stay_powerless(mesh: RunningMesh) -> None:
    done = as_app(mesh, ATTACKER, "su", "-c", "id -u", "root")
    assert done.stdout.strip() != "0"
    assert done.returncode != 0


NAMESPACES = {
    "the machine's network": "call('setns', os.open('/proc/1/ns/net', os.O_RDONLY), 0x40000000)",
    "the victim's, by its process": "call('setns', os.open(f'/proc/{victim}/ns/net', os.O_RDONLY), 0x40000000)",
    "the victim's, by its name": "call('setns', os.open(f'/run/netns/{name}', os.O_RDONLY), 0x40000000)",
    "a new mount namespace": "call('unshare', 0x00020000)",
}


@pytest.mark.parametrize("way", NAMESPACES)
def test_no_other_namespace(mesh: RunningMesh, way: str) -> None:
    victim = mesh.row(VICTIM)["app_pid"]
    name = place_of(mesh, VICTIM).namespace
    assert attempt(mesh, NAMESPACES[way], victim=victim, name=name) in ("EPERM", "EACCES", "ENOENT")


@pytest.mark.parametrize("command", ["nft flush ruleset", "ip link set eth0 down", "ip route flush table main"])
def test_no_change_of_rules_not_even_as_root_of_a_user_namespace(mesh: RunningMesh, command: str) -> None:
    assert as_app(mesh, ATTACKER, *command.split()).returncode != 0
    assert as_app(mesh, ATTACKER, "unshare", "-Ur", *command.split()).returncode != 0
    assert get(mesh, ATTACKER, "http://chat/")[0] == 200


def test_a_network_namespace_of_its_own_leads_nowhere(mesh: RunningMesh) -> None:
    address = mesh.row(VICTIM)["address"]
    done = as_app(mesh, ATTACKER, "unshare", "-Urn", "curl", "-sS", "-m", "3", f"http://{address}:8000/")
    assert done.returncode != 0


SECRETS = {
    "the proxy's bootstrap": "open(f'{home}/bootstrap.json').read()",
    "the proxy's discovery socket": "socket.socket(socket.AF_UNIX).connect(f'{home}/x')",
    "the proxy's admin socket": "socket.socket(socket.AF_UNIX).connect(f'{home}/admin/a')",
    "the victim's discovery socket": "socket.socket(socket.AF_UNIX).connect(f'{other}/x')",
    "the victim's admin socket": "socket.socket(socket.AF_UNIX).connect(f'{other}/admin/a')",
    "the agent's socket": "socket.socket(socket.AF_UNIX).connect(f'{state}/run/agent.sock')",
    "the management socket": "socket.socket(socket.AF_UNIX).connect(f'{state}/run/api.sock')",
    "the signing key": "open(f'{state}/ca/ca-key.pem').read()",
    "the state": "os.listdir(state)",
    "the proxy's memory": "open(f'/proc/{pid}/mem', 'rb').read(1)",
    "the proxy's environment": "open(f'/proc/{pid}/environ', 'rb').read()",
    "the proxy's descriptors": "os.listdir(f'/proc/{pid}/fd')",
    "a debugger at the proxy": "call('ptrace', 16, pid, 0, 0)",
    "a signal to the proxy": "os.kill(pid, 9)",
    "a socket in the proxy's place": "os.rename(f'{home}/x', f'{home}/y')",
    "a file among the rules of names": "open('/etc/resolv.conf', 'a').write('nameserver 192.0.2.1')",
}


@pytest.mark.parametrize("name", SECRETS)
def test_nothing_of_its_proxy(mesh: RunningMesh, name: str) -> None:
    place, other = place_of(mesh, ATTACKER), place_of(mesh, VICTIM)
    run = f"/run/headrace/{place.net.mesh}"
    found = attempt(
        mesh,
        SECRETS[name],
        home=f"{run}/{place.number}",
        other=f"{run}/{other.number}",
        state=str(mesh.state.resolve()),
        pid=mesh.row(ATTACKER)["proxy_pid"],
    )
    # Below a directory that only its owner may enter, the state is not even seen.
    assert found in ("EPERM", "EACCES") or (found == "ENOENT" and "state" in SECRETS[name]), found


WAYS = {
    "UDP": "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', (address, 9999))",
    "UDP of IPv6": "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.sendto(b'x', (address6, 9999))",
    "UDP to the world": "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('192.0.2.1', 9999))",
    "a broadcast": "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\ns.sendto(b'x', ('255.255.255.255', 9999))",
    "multicast": "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.sendto(b'x', ('ff02::1', 9999, 0, 2))",
    "another source port": "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 53)); "
    "s.sendto(b'x', (address, 9999))",
}


@pytest.mark.parametrize("name", WAYS)
def test_nothing_but_tcp_leaves(mesh: RunningMesh, name: str) -> None:
    victim = place_of(mesh, VICTIM)
    if "IPv6" in name and victim.address6 is None:
        pytest.skip("this machine has no IPv6")
    found = attempt(mesh, WAYS[name], address=str(victim.address), address6=str(victim.address6))
    assert found in ("EPERM", "EACCES", "EHOSTUNREACH", "ENETUNREACH", "ECONNREFUSED"), found


@pytest.mark.parametrize("port", [8000, 15001, 15006, 15053, 9])
def test_a_call_by_address_is_refused(mesh: RunningMesh, port: int) -> None:
    victim = place_of(mesh, VICTIM)
    for host in (str(victim.address), f"[{victim.address6}]"):
        assert get(mesh, ATTACKER, f"http://{host}:{port}/")[0] in (0, 502, 503)


def test_the_port_of_its_own_proxy_cannot_be_taken(mesh: RunningMesh) -> None:
    for port, kind in ((15001, "SOCK_STREAM"), (15006, "SOCK_STREAM"), (15053, "SOCK_DGRAM")):
        for address in ("", "127.0.0.1", str(place_of(mesh, ATTACKER).address)):
            text = (
                f"s = socket.socket(socket.AF_INET, socket.{kind})\n"
                "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
                "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
                f"s.bind(({address!r}, {port}))"
            )
            assert attempt(mesh, text) == "EADDRINUSE", (port, address)


def test_its_proxys_ports_are_no_way_around(mesh: RunningMesh) -> None:
    for port in (15001, 15006):
        assert get(mesh, ATTACKER, f"http://127.0.0.1:{port}/", "-H", "Host: chat")[0] in (0, 502, 503)


def test_forged_identity_headers_are_replaced(mesh: RunningMesh) -> None:
    forged = "By=spiffe://cluster.local/ns/default/sa/chat;URI=spiffe://cluster.local/ns/default/sa/admin"
    status, body = get(mesh, ATTACKER, "http://chat/", "-H", f"x-forwarded-client-cert: {forged}")
    assert status == 200
    assert "sa/admin" not in body["headers"]["x-forwarded-client-cert"]
    assert "sa/stranger" in body["headers"]["x-forwarded-client-cert"]


def test_a_namespace_beside_the_replicas_needs_a_certificate(mesh: RunningMesh) -> None:
    """Whoever gets onto the mesh's bridge (here root does) still has no certificate."""
    net, victim = place_of(mesh, VICTIM).net, place_of(mesh, VICTIM)
    name = f"hrt-rogue-{net.mesh}"
    rogue = list(net.addresses())[-1]
    try:
        for command in (
            f"ip netns add {name}",
            f"ip -n {net.switch} link add rogue type veth peer name eth0 netns {name}",
            f"ip -n {net.switch} link set rogue master br0 up",
            f"ip -n {name} addr add {rogue}/{net.block.prefixlen} dev eth0",
            f"ip -n {name} link set eth0 up",
        ):
            subprocess.run(command.split(), check=True, timeout=20)
        ask = [sys.executable, "-I", "-c", ROGUE, str(victim.address)]
        done = subprocess.run(["ip", "netns", "exec", name, *ask], capture_output=True, text=True, timeout=60)
        assert done.stdout.split() == ["reachable", "refused", "refused"], done.stderr
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False, timeout=20)


ROGUE = """\
import socket, ssl, sys
def ask(plain):
    try:
        plain.settimeout(5)
        plain.sendall(b"GET / HTTP/1.1\\r\\nHost: chat\\r\\n\\r\\n")
        return "answered" if plain.recv(100) else "refused"
    except OSError:
        return "refused"
address = (sys.argv[1], 8000)
plain = socket.create_connection(address, 5)
print("reachable", ask(plain))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.set_alpn_protocols(["istio-http/1.1", "istio"])
try:
    print(ask(context.wrap_socket(socket.create_connection(address, 5))))
except OSError:
    print("refused")
"""


def test_the_mesh_still_works(mesh: RunningMesh) -> None:
    until(lambda: get(mesh, ATTACKER, "http://chat.default/")[0] == 200, "calls of the attacker's own identity", 20.0)
