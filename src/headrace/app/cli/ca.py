"""`headrace ca list|inspect|revoke|rotate-root`: the mesh's certificates, and an end to those that should have one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headrace.app.cli import CommandFailed
from headrace.app.cli.output import Format, FormatOption, print_data, print_rows
from headrace.app.cli.up import DEFAULT_STATE, StateOption

app = typer.Typer(add_completion=False, help="Certificates: list, inspect, revoke, rotate-root.", no_args_is_help=True)

_REASONS = "key-compromise, superseded, cessation-of-operation, privilege-withdrawn, affiliation-changed or unspecified"
_COLUMNS = [
    ("replica", "REPLICA"),
    ("identity", "IDENTITY"),
    ("state", "STATE"),
    ("until", "UNTIL"),
    ("serial", "SERIAL"),
]
_REVOKED_COLUMNS = [
    ("serial", "REVOKED SERIAL"),
    ("identity", "IDENTITY"),
    ("reason", "REASON"),
    ("revoked", "WHEN"),
    ("until", "ON THE LIST UNTIL"),
]
_BLOCKED_COLUMNS = [("identity", "REVOKED IDENTITY"), ("reason", "REASON"), ("since", "SINCE")]


@app.command(name="list")
def list_certificates(
    everything: Annotated[bool, typer.Option("--all", help="Also certificates that were replaced or expired.")] = False,
    state: StateOption = DEFAULT_STATE,
    output: FormatOption = Format.TABLE,
) -> None:
    """The newest certificate of every replica, what is revoked, and how a change of roots stands."""
    from headrace.app.api.client import ApiClient

    found = ApiClient(state).call("GET", "/v1/certificates", all="1" if everything else None)
    if output is not Format.TABLE:
        print_data(found, output)
        return
    _print_authority(found["authority"])
    print_rows(found["certificates"], _COLUMNS, output)
    for rows, columns in ((found["revoked"], _REVOKED_COLUMNS), (found["blocked"], _BLOCKED_COLUMNS)):
        if rows:
            print()
            print_rows(rows, columns, output)


@app.command()
def inspect(
    serial: Annotated[str, typer.Argument(help="Serial number in hex; without one, the authority.")] = "",
    state: StateOption = DEFAULT_STATE,
    output: FormatOption = Format.TABLE,
) -> None:
    """One certificate, or the authority: roots, revocation lists, a change of roots and what it waits for."""
    from headrace.app.api.client import ApiClient

    path = f"/v1/certificates/{_serial(serial)}" if serial else "/v1/authority"
    found = ApiClient(state).call("GET", path)
    if output is not Format.TABLE:
        print_data(found, output)
    elif serial:
        print_rows([{"field": key, "value": value} for key, value in found.items()], _FIELDS, output)
    else:
        _print_authority(found)


@app.command()
def revoke(
    workload: Annotated[str, typer.Option(help="Every certificate of this workload's identity (NAMESPACE/NAME).")] = "",
    identity: Annotated[str, typer.Option(help="Every certificate of this identity (SPIFFE URI).")] = "",
    serial: Annotated[str, typer.Option(help="One certificate and its key, by serial number in hex.")] = "",
    reason: Annotated[str, typer.Option(help=f"Why: {_REASONS}.")] = "key-compromise",
    lift: Annotated[
        bool, typer.Option("--lift", help="Allow a revoked identity or workload new certificates.")
    ] = False,
    state: StateOption = DEFAULT_STATE,
    output: FormatOption = Format.TABLE,
) -> None:
    """Revoke certificates: no new handshake succeeds, live connections are closed, and by identity none is issued."""
    from headrace.app.api.client import ApiClient

    if sum(map(bool, (workload, identity, serial))) != 1:
        raise typer.BadParameter("say what to revoke: one of --workload, --identity and --serial")
    wanted = {"workload": workload, "identity": identity, "serial": _serial(serial), "reason": reason}
    done = ApiClient(state).call("POST", "/v1/revocations", wanted | ({"lift": "1"} if lift else {}))
    if output is not Format.TABLE:
        print_data(done, output)
        return
    if lift:
        print(f"{done['identity']} may have certificates again; those that were revoked stay so")
        return
    what = "1 certificate" if len(done["revoked"]) == 1 else f"{len(done['revoked'])} certificates"
    print(f"revoked {what} of {done['identity']}: {', '.join(done['revoked']) or 'none was valid'}")
    if not serial:
        affected = ", ".join(done["replicas"]) or "no replica"
        print(f"no certificate is issued to it until it is lifted (--lift); replicas of this identity: {affected}")


@app.command(name="rotate-root")
def rotate_root(
    overlap: Annotated[str, typer.Option(help="Keep the old root at least this long, e.g. 10m.")] = "30s",
    state: StateOption = DEFAULT_STATE,
    output: FormatOption = Format.TABLE,
) -> None:
    """Replace the mesh's own root: announce the new one, renew every certificate, drop the old one."""
    from headrace.app.api.client import ApiClient

    found = ApiClient(state).call("POST", "/v1/authority/rotation", {"overlap_seconds": seconds(overlap)})
    if output is not Format.TABLE:
        print_data(found, output)
        return
    _print_authority(found)
    print(f"`headrace ca inspect --state {state}` shows how far it is")


_FIELDS = [("field", "FIELD"), ("value", "VALUE")]


def _print_authority(found: dict[str, Any]) -> None:
    for item in found["authorities"]:
        role = "signs" if item["signs"] else "is trusted"
        print(f"authority {item['subject']} ({item['issuer']}) {role}, until {item['until']}")
    rotation = found["rotation"]
    if rotation["phase"] != "steady":
        waiting = "; ".join(found["waiting_for"]) or "nothing"
        print(f"change of roots: phase {rotation['phase']}, since {rotation['began']}, waits for: {waiting}")
    if found["lists_sent"]:
        ends = ", ".join(f"number {item['number']} until {item['until']}" for item in found["lists"])
        print(f"revocation lists in force: {ends}")
    for problem in found["problems"]:
        print(f"problem: {problem}")


def _serial(text: str) -> str:
    plain = text.replace(":", "").strip()
    if plain and not all(char in "0123456789abcdefABCDEF" for char in plain):
        raise CommandFailed(f"{text[:80]!r} is no serial number in hex: `headrace ca list` shows them")
    return plain


def seconds(text: str) -> float:
    from pydantic import TypeAdapter, ValidationError

    from headrace.config.fields import Duration

    try:
        return float(TypeAdapter(Duration).validate_python(text))
    except ValidationError:
        raise typer.BadParameter(f"{text!r} is not a duration such as 10m or 90s") from None
