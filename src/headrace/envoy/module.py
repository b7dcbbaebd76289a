"""Find the native module and make sure that this machine's Envoy can load it, before any proxy is told to.

Called by the agent at its start; the answer goes to the control plane with the registration, so translation puts the
module's filter only where it works. Envoy merely warns about a module of another ABI, so that is judged here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from google.protobuf import any_pb2, json_format

from headrace.envoy.binary import PINNED_VERSION, EnvoyError, envoy_version, find_envoy
from headrace.envoy.module_filter import (
    MODULE_NAME,
    guard_filter,
    guard_network_filter,
    module_filter,
    pool_balancer,
    pool_filter,
)
from headrace.floor.files import write_private

PINNED_ABI = "v0.2.0"
"""The ABI version that Envoy 1.40.0 expects of a dynamic module."""
SEARCH_PATH = "ENVOY_DYNAMIC_MODULES_SEARCH_PATH"
"""Environment variable of Envoy: the directory in which it looks for `lib<name>.so`."""
FILE_NAME = f"lib{MODULE_NAME}.so"

_MARK = b"headrace-module-abi="
_LONGEST_VERSION = 32
_LARGEST_MODULE = 256 * 1024 * 1024
_SMOKE_SECONDS = 30.0
_WITHOUT = "the mesh goes on without it and balances by least_request"


@dataclass(frozen=True, slots=True)
class ModuleCheck:
    """Whether proxies may load the native module. `problem` is one line for people, empty where it is usable."""

    usable: bool
    problem: str
    path: Path | None

    def environment(self) -> dict[str, str]:
        """What an Envoy that loads the module needs in its environment; nothing where the module is not usable."""
        return {SEARCH_PATH: str(self.path.parent)} if self.usable and self.path else {}


def module_path() -> Path:
    """Where the package's build puts the module; the file need not be there."""
    return Path(str(resources.files("headrace._native").joinpath(FILE_NAME)))


def module_abi(path: Path) -> str:
    """The ABI version that the module carries ("v0.2.0"), read from the file without loading it; "" for none."""
    if path.stat().st_size > _LARGEST_MODULE:
        return ""
    content = path.read_bytes()
    start = content.find(_MARK)
    if start < 0:
        return ""
    version = content[start + len(_MARK) :][:_LONGEST_VERSION].split(b"\0", 1)[0]
    return version.decode("ascii", "replace")


def check_module(cache: Path | None = None, *, envoy: Path | None = None, module: Path | None = None) -> ModuleCheck:
    """Judge the module: it is there, made for this ABI, Envoy is the pinned one, and a real Envoy accepts its filter.

    A good answer is kept in the file `cache` and holds until module or Envoy change. `envoy` and `module` default to
    those of this installation. Never raises for a bad module or Envoy: it says so in `problem`.
    """
    path = (module or module_path()).absolute()
    try:
        envoy = envoy or find_envoy()
        problem = _missing(path) or _judge(path, envoy, cache)
    except (EnvoyError, OSError) as failure:
        problem = str(failure)
    if problem:
        return ModuleCheck(False, f"native module not used: {problem}; {_WITHOUT}", path if path.is_file() else None)
    return ModuleCheck(True, "", path)


def _missing(path: Path) -> str:
    if path.is_file():
        return ""
    return f"it was not built ({path} is missing; install a Rust compiler, then install headrace again)"


def _judge(path: Path, envoy: Path, cache: Path | None) -> str:
    key = _state_of(path, envoy)
    if cache is not None and _cached(cache) == key:
        return ""
    problem = _foreign_abi(path) or _foreign_envoy(envoy) or _smoke_test(path, envoy)
    if not problem and cache is not None:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs a test the next time
            write_private(cache, json.dumps({"usable": key}).encode())
    return problem


def _foreign_abi(path: Path) -> str:
    abi = module_abi(path)
    if abi == PINNED_ABI:
        return ""
    return f"{path} is made for ABI {abi or 'unknown'!r}, Envoy {PINNED_VERSION} needs {PINNED_ABI}: reinstall headrace"


def _foreign_envoy(envoy: Path) -> str:
    version = envoy_version(envoy)
    return "" if version == PINNED_VERSION else f"{envoy} is Envoy {version}, the module needs {PINNED_VERSION}"


def _smoke_test(path: Path, envoy: Path) -> str:
    """Let Envoy validate a listener and a cluster with all that the module offers, which loads it and creates its
    configurations."""
    if path.name != FILE_NAME:
        return f"{path} must be called {FILE_NAME}"
    with tempfile.TemporaryDirectory(prefix="headrace-module-") as directory:
        bootstrap = Path(directory) / "bootstrap.json"
        bootstrap.write_text(_smoke_bootstrap())
        try:
            answer = subprocess.run(
                [envoy, "--mode", "validate", "-c", bootstrap, "-l", "warn", "--disable-hot-restart"],
                env={**os.environ, SEARCH_PATH: str(path.parent)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SMOKE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"{envoy} did not finish validating it within {_SMOKE_SECONDS:.0f} s"
    if answer.returncode == 0:
        return ""
    if answer.returncode < 0:
        return f"{envoy} crashes when it loads it (signal {-answer.returncode}): reinstall headrace"
    said = (answer.stderr or answer.stdout).decode("utf-8", "replace").strip().splitlines()
    reason = said[-1].rsplit("bootstrap.json': ", 1)[-1].strip()[:300] if said else f"exit code {answer.returncode}"
    return f"{envoy} refuses it: {reason}"


def _smoke_bootstrap() -> str:
    manager = http_connection_manager_pb2.HttpConnectionManager(stat_prefix="smoke")
    host = manager.route_config.virtual_hosts.add(name="any", domains=["*"])
    route = host.routes.add()
    route.match.prefix = "/"
    route.direct_response.status = 200
    manager.http_filters.append(guard_filter())
    manager.http_filters.extend([module_filter(), pool_filter()])
    router = manager.http_filters.add(name="envoy.filters.http.router")
    router.typed_config.Pack(router_pb2.Router())
    bootstrap = bootstrap_pb2.Bootstrap()
    cluster = bootstrap.static_resources.clusters.add(name="smoke")
    balancer = pool_balancer(json.dumps({"pool": "smoke"}))
    cluster.load_balancing_policy.policies.add().typed_extension_config.CopyFrom(balancer)
    listener = bootstrap.static_resources.listeners.add(name="smoke")
    listener.address.socket_address.address = "127.0.0.1"
    listener.address.socket_address.port_value = 0
    packed = any_pb2.Any()
    packed.Pack(manager)
    chain = listener.filter_chains.add()
    chain.filters.append(guard_network_filter())
    chain.filters.add(name="envoy.filters.network.http_connection_manager", typed_config=packed)
    return json_format.MessageToJson(bootstrap, preserving_proto_field_name=True)


def _state_of(path: Path, envoy: Path) -> str:
    """Changes whenever the module's content or the Envoy file does."""
    stat = envoy.stat()
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16)
    digest.update(f"{envoy}\0{stat.st_size}\0{stat.st_mtime_ns}\0{PINNED_VERSION}\0{PINNED_ABI}".encode())
    return digest.hexdigest()


def _cached(cache: Path) -> str:
    try:
        found = json.loads(cache.read_bytes()[:1024])
    except (OSError, ValueError):
        return ""
    return str(found.get("usable", "")) if isinstance(found, dict) else ""
