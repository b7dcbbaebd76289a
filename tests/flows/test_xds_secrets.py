"""Secret discovery beside aggregated discovery on one socket, as an agent serves its replica's Envoy."""

from __future__ import annotations

import asyncio
import datetime
import functools
import shutil
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import config_source_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from tests.flows.envoy_process import EnvoyProcess, running_envoy
from tests.flows.xds_resources import FixedResources, cluster, endpoints

from headrace.envoy.bootstrap import AGENT_CLUSTER, BootstrapSettings, bootstrap_json
from headrace.envoy.resources import CLUSTER, SECRET, ResourceSet, XdsResource
from headrace.envoy.xds.hub import Hub
from headrace.envoy.xds.service import discovery_handler, unix_server
from headrace.floor.clock import SystemClock

PROXY = "sidecar/default/p"


def secret(name: str, certificate: bytes, key: bytes) -> XdsResource:
    message = secret_pb2.Secret(name=name)
    message.tls_certificate.certificate_chain.inline_bytes = certificate
    message.tls_certificate.private_key.inline_bytes = key
    return XdsResource.of(SECRET, name, message.SerializeToString(deterministic=True))


def pair() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def tls_cluster(name: str, connect_ms: int) -> XdsResource:
    """`cluster()` with a client certificate that comes over SDS."""
    message = cluster_pb2.Cluster.FromString(cluster(name, connect_ms).body)
    context = tls_pb2.UpstreamTlsContext()
    reference = context.common_tls_context.tls_certificate_sds_secret_configs.add(name="default")
    _over_the_socket(reference)
    message.transport_socket.name = "tls"
    message.transport_socket.typed_config.Pack(context)
    return XdsResource.of(CLUSTER, name, message.SerializeToString(deterministic=True))


def _over_the_socket(reference: common_pb2.SdsSecretConfig | secret_pb2.SdsSecretConfig) -> None:
    source = reference.sds_config
    source.resource_api_version = config_source_pb2.V3
    source.api_config_source.api_type = config_source_pb2.ApiConfigSource.DELTA_GRPC
    source.api_config_source.transport_api_version = config_source_pb2.V3
    source.api_config_source.grpc_services.add().envoy_grpc.cluster_name = AGENT_CLUSTER


async def rotations(envoy: EnvoyProcess) -> int:
    name = "cluster.a.client_ssl_socket_factory.ssl_context_update_by_sds"
    return (await asyncio.to_thread(envoy.stats, f"^{name}$")).get(name, 0)


async def at_least(envoy: EnvoyProcess, count: int) -> None:
    async with asyncio.timeout(5):
        while await rotations(envoy) < count:
            await asyncio.sleep(0.01)


async def test_secrets_rotate_and_a_changed_cluster_does_not_wait_for_them() -> None:
    directory = Path(tempfile.mkdtemp(prefix="hr-sds-"))
    clock = SystemClock()
    discovery, secrets = FixedResources(), FixedResources()
    ads, sds = Hub(discovery, clock), Hub(secrets, clock)
    discovery[PROXY] = ResourceSet.collect([tls_cluster("a", 1000), endpoints("a", [9])])
    handler = discovery_handler(
        ads=functools.partial(ads.stream, PROXY),
        sds=functools.partial(sds.stream, PROXY),
    )
    settings = BootstrapSettings("p", "p", directory / "xds", directory / "admin")
    envoy = running_envoy(bootstrap_json(settings), directory / "admin")
    try:
        async with unix_server(directory / "xds", [handler]):
            process = await asyncio.to_thread(envoy.__enter__)
            try:
                await _script(discovery, secrets, ads, sds, process)
            finally:
                await asyncio.to_thread(envoy.__exit__, None, None, None)
    finally:
        shutil.rmtree(directory)


async def _script(
    discovery: FixedResources, secrets: FixedResources, ads: Hub, sds: Hub, process: EnvoyProcess
) -> None:
    secrets[PROXY] = ResourceSet.collect([secret("default", *pair())])
    sds.publish(secrets)
    await at_least(process, 1)

    discovery[PROXY] = ResourceSet.collect([tls_cluster("a", 1001), endpoints("a", [9])])
    assert await ads.acknowledged(ads.publish(discovery), 3) == frozenset()
    assert sds.counters.resources_sent == 1, "Envoy keeps the secret that it has"

    for number in range(5):
        before = await rotations(process)
        secrets[PROXY] = ResourceSet.collect([secret("default", *pair())])
        assert await sds.acknowledged(sds.publish(secrets), 3) == frozenset()
        await at_least(process, before + 1)
        assert sds.counters.acks == number + 2

    secrets[PROXY] = ResourceSet.collect([secret("default", b"no certificate", b"no key")])
    await sds.acknowledged(sds.publish(secrets), 3)
    status = sds.status(PROXY)
    assert status is not None
    (nack,) = status.nacks
    assert nack.resources == ("default",)
    assert "no key" not in nack.message
