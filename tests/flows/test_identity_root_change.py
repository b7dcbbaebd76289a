"""A change of roots in the steps that docs/reference/identity.md gives, in real Envoys under load."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import aiohttp
from tests.flows.envoy_process import EnvoyProcess
from tests.flows.identity_rig import CLIENT, SERVER, Rig, SecretServer, Trust, running_rig

from headrace.envoy.secrets import validation_secret
from headrace.model.identity import Identity


def versions(envoy: EnvoyProcess) -> dict[str, str]:
    """Secret name → version in force, as Envoy says."""
    dump = json.loads(envoy.admin("/config_dump?resource=dynamic_active_secrets"))
    return {item["name"]: item["version_info"] for item in dump.get("configs", [])}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.01)


async def renew(trust: Trust, rig: Rig) -> None:
    """Certificate and bundle of both sides, as after a control plane's restart and every replica's renewal."""
    sides: tuple[tuple[Identity, SecretServer, EnvoyProcess], ...] = (
        (SERVER, rig.server_secrets, rig.server),
        (CLIENT, rig.client_secrets, rig.client),
    )
    for identity, secrets, envoy in sides:
        certificate = trust.pair(identity)
        roots = validation_secret("ROOTCA", certificate.bundle_pem)
        before = versions(envoy)["default"]
        secrets.put(roots)
        secrets.put_pair("default", certificate)
        await until(
            lambda envoy=envoy, roots=roots, before=before: (
                versions(envoy)["ROOTCA"] == roots.version and versions(envoy)["default"] != before
            )
        )


def install(trust: Trust, **files: bytes) -> Trust:
    """Replace files of the authority and open it anew, as a restarted control plane does."""
    for name, data in files.items():
        (trust.directory / (name.replace("_", "-") + ".pem")).write_bytes(data)
    trust.ledger.close()
    return Trust(trust.directory)


async def test_roots_change_without_a_refused_request(tmp_path: Path) -> None:
    with running_rig() as rig:
        successor = Trust(tmp_path / "new")
        old_root = (rig.trust.directory / "root-cert.pem").read_bytes()
        new = {path.stem: path.read_bytes() for path in successor.directory.glob("*.pem")}
        successor.ledger.close()
        done, answers = asyncio.Event(), []

        async def load(session: aiohttp.ClientSession) -> None:
            while not done.is_set():
                async with session.get(rig.front + "/right") as response:
                    answers.append((response.status, await response.text()))

        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(load(session))
            for step in (
                {"root_cert": old_root + new["root-cert"]},
                {"ca_cert": new["ca-cert"], "ca_key": new["ca-key"]},
                {"root_cert": new["root-cert"]},
            ):
                rig.trust = install(rig.trust, **step)
                await renew(rig.trust, rig)
                # A connection carries twenty requests: after a hundred both workers have shaken hands anew.
                enough = len(answers) + 100
                await until(lambda enough=enough: len(answers) >= enough)
            done.set()
        assert set(answers) == {(200, "through")}
        # Only the new root is trusted now, and the server's certificate descends from it.
        shown = rig.served_serial(rig.context(rig.trust.pair(CLIENT)))
        entry = rig.trust.ledger.inspect(shown)
        assert entry is not None
        assert entry.identity == SERVER.uri
        assert rig.trust.authority.bundle_pem.encode() == new["root-cert"]
        rig.trust.ledger.close()
