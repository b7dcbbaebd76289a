"""`headrace up [DIR]`: run the mesh that a directory of documents describes."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.app.cli import CommandFailed

if TYPE_CHECKING:
    from headrace.app.capture_choice import Choice
    from headrace.app.up import MeshProcess

app = typer.Typer(add_completion=False)
StateOption = Annotated[Path, typer.Option("--state", help="Directory of the mesh's state (mode 0700).")]
DEFAULT_STATE = Path(".headrace")
_SHORTEST_LIFETIME = 2.0
"""Seconds; lives below ten minutes are for trying out rotation."""


@app.command()
def up(
    directory: Annotated[Path, typer.Argument(help="Directory (or file) of YAML documents.")] = Path(),
    state: StateOption = DEFAULT_STATE,
    wait: Annotated[bool, typer.Option("--wait", help="Fail where not everything is ready in time.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that --wait waits.")] = 120.0,
    gateway_bind: Annotated[str, typer.Option(help="Address that gateways listen on.")] = "127.0.0.1",
    certificate_lifetime: Annotated[str, typer.Option(help="Life of workload certificates, e.g. 24h.")] = "24h",
    capture: Annotated[
        str,
        typer.Option(help="How traffic reaches the proxies: netns, loopback, or auto (netns where it is possible)."),
    ] = "auto",
    join_listen: Annotated[
        str | None, typer.Option(help="IP:PORT where other hosts may join (see `headrace token`); needs --addresses.")
    ] = None,
    addresses: Annotated[
        str | None, typer.Option(help="Range (CIDR) of this host for its replicas, which other hosts reach.")
    ] = None,
    metrics_listen: Annotated[
        str | None, typer.Option(help="IP:PORT where Prometheus may scrape the control plane, e.g. 127.0.0.1:15014.")
    ] = None,
    mesh_config: Annotated[Path | None, typer.Option(help="File with Istio's MeshConfig.")] = None,
    ca_directory: Annotated[
        Path | None, typer.Option(help="Plugged-in root: ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem.")
    ] = None,
) -> None:
    """Run the mesh: control plane, certificates, a proxy beside every replica, the gateways. Ctrl-C stops it all."""
    from headrace.app.capture_choice import choose
    from headrace.app.settings import MeshSettings
    from headrace.app.up import MeshProcess, wait_ready
    from headrace.app.up import detach as start_detached
    from headrace.floor.places import Places, StateError

    if not directory.exists():
        raise CommandFailed(f"{directory}: no such file or directory: name a directory of YAML documents")
    for path in (mesh_config, ca_directory):
        if path is not None and not path.exists():
            raise CommandFailed(f"{path}: no such file or directory")
    lifetime = _seconds(certificate_lifetime)
    try:
        places = Places.open(state)
    except (StateError, OSError) as error:
        raise CommandFailed(f"cannot use the state directory: {error}") from error
    chosen = choose("loopback") if addresses and capture == "auto" else choose(capture)
    if metrics_listen:
        _check_listen(metrics_listen, "--metrics-listen")
    addresses = _check_hosts(join_listen, addresses, chosen.kind)
    settings = MeshSettings(
        documents=(str(directory.resolve()),),
        mesh_config=str(mesh_config.resolve()) if mesh_config else None,
        gateway_bind=gateway_bind,
        certificate_lifetime=lifetime,
        ca_directory=str(ca_directory.resolve()) if ca_directory else None,
        capture=chosen.kind,
        join_listen=join_listen,
        addresses=addresses,
        metrics_listen=metrics_listen,
    )
    if detach:
        arguments = [str(directory.resolve()), "--state", str(places.state), "--gateway-bind", gateway_bind]
        arguments += ["--certificate-lifetime", certificate_lifetime, "--capture", chosen.kind]
        for name, text in (
            ("--join-listen", join_listen),
            ("--addresses", addresses),
            ("--metrics-listen", metrics_listen),
        ):
            arguments += [name, text] if text else []
        for name, path in (("--mesh-config", mesh_config), ("--ca-directory", ca_directory)):
            arguments += [name, str(path.resolve())] if path else []
        mark = start_detached(arguments, places)
        _say(chosen)
        status = wait_ready(places, timeout, mark.alive, _Progress().tell) if wait else None
        _announce(status, state)
        return
    mesh = MeshProcess(places)
    with mesh.stopped_by_signals():
        mesh.start(settings)
        _say(chosen)
        try:
            _follow(mesh, state, timeout, strict=wait)
        finally:
            print("headrace: stopping", file=sys.stderr)
            if not mesh.stop():
                print("headrace: something did not stop in time and was killed", file=sys.stderr)


def _check_hosts(join_listen: str | None, addresses: str | None, capture: str) -> str | None:
    """The range of addresses, or CommandFailed where what was asked for several hosts does not fit together."""
    from headrace.app.membership import check_addresses
    from headrace.floor.places import StateError

    if join_listen and not addresses:
        raise CommandFailed("--join-listen needs --addresses CIDR: replicas here must be reachable from other hosts")
    if addresses and capture == "netns":
        raise CommandFailed("--addresses does not go with netns capture: use --capture loopback")
    if join_listen:
        _check_listen(join_listen, "--join-listen")
    try:
        return check_addresses(addresses) if addresses else None
    except StateError as error:
        raise CommandFailed(str(error)) from error


def _check_listen(text: str, option: str) -> None:
    """CommandFailed where an option's address is none."""
    from headrace.app.control_plane.hosts_door import parse_listen
    from headrace.floor.places import StateError

    try:
        parse_listen(text, option)
    except StateError as error:
        raise CommandFailed(str(error)) from error


def _say(chosen: Choice) -> None:
    if chosen.reason:
        print(f"headrace: {chosen.kind} capture: {chosen.reason}", file=sys.stderr)


def _follow(mesh: MeshProcess, state: Path, timeout: float, *, strict: bool) -> None:
    """Say when the mesh is ready, then stay until a signal comes."""
    from headrace.app.up import StartFailed, follow_problems, wait_ready

    told: set[str] = set()
    try:
        status = wait_ready(mesh.places, timeout, mesh.running, _Progress().tell)
        _announce(status, state)
        told = set(status["problems"])
    except CommandFailed as failure:
        if (strict or isinstance(failure, StartFailed)) and not mesh.asked.is_set():
            raise
        if not mesh.asked.is_set():
            print(f"headrace: {failure}; going on", file=sys.stderr)
    threading.Thread(target=follow_problems, args=(mesh.places, mesh.asked, told, _warn), daemon=True).start()
    mesh.watch(lambda code: print(f"headrace: the agent ended ({code}); starting it again", file=sys.stderr))


def _seconds(text: str) -> float:
    from pydantic import TypeAdapter, ValidationError

    from headrace.config.fields import Duration
    from headrace.identity.issuer import check_lifetime

    try:
        return check_lifetime(TypeAdapter(Duration).validate_python(text), _SHORTEST_LIFETIME)
    except ValidationError:
        raise typer.BadParameter(f"{text!r} is not a duration such as 24h or 90s") from None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@dataclass(slots=True)
class _Progress:
    """How far the start is, a line whenever it differs from the last one."""

    last: str = ""

    def tell(self, status: dict[str, Any]) -> None:
        ready, total, waiting = status["ready_replicas"], status["replicas"], status["waiting"]
        text = ", ".join(f"{item['id']}: {item['detail'] or item['state']}" for item in waiting[:3])
        more = f" and {len(waiting) - 3} more" if len(waiting) > 3 else ""
        line = f"{ready}/{total} ready{'; waiting for ' + text + more if text else ''}"
        if line != self.last:
            _warn(line)
        self.last = line


def _warn(line: str) -> None:
    print(f"headrace: {line}", file=sys.stderr, flush=True)


def _announce(status: dict[str, Any] | None, state: Path) -> None:
    if status is None:
        print(f"headrace: starting in the background; `headrace proxy status --state {state}` shows how far it is")
        return
    for problem in status["problems"]:
        _warn(problem)
    for gateway in status["gateways"]:
        print(f"{gateway['name']}: send requests to {', '.join(gateway['urls'])}")
    for note in status["notes"]:
        print(f"note: {note}")
    print(f"ready: {status['ready_replicas']} replicas; `headrace proxy status --state {state}` shows their proxies")
