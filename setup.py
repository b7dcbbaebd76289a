"""Builds the native parts (native/, Rust) into the package; everything else stands in pyproject.toml.

The module is a plain shared library that Envoy loads, not a Python extension: it is called `libheadrace_envoy.so` on
every Python. `core` is an extension for Python's stable ABI (simulator, engine model, scheduler). So a wheel with them
fits every Python 3. Without a Rust compiler the package installs all the same: the mesh says at start that it goes on
without the module, and `headrace simulate` what it lacks.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools_rust import Binding, RustExtension
from setuptools_rust.build import build_rust


class BuildModule(build_rust):
    """Names the library as Envoy looks for it: no suffix of one Python version."""

    def get_dylib_ext_path(self, ext: RustExtension, target_fname: str) -> str:
        path = super().get_dylib_ext_path(ext, target_fname)
        return str(Path(path).with_name("libheadrace_envoy.so")) if ext.binding is Binding.NoBinding else path


class ModuleWheel(bdist_wheel):
    """The library depends on the machine, not on the Python: py3-none-<platform>."""

    def get_tag(self) -> tuple[str, str, str]:
        _, _, platform = super().get_tag()
        return "py3", "none", platform


MODULE = RustExtension(
    "headrace._native.libheadrace_envoy",
    path="native/envoy-module/Cargo.toml",
    binding=Binding.NoBinding,
    args=["--locked", "--offline"],  # no dependencies: nothing to fetch
    debug=False,
    optional=True,
)

CORE = RustExtension(
    "headrace._native.core",
    path="native/python/Cargo.toml",
    binding=Binding.PyO3,
    py_limited_api=True,
    rust_version=">=1.83",  # what the pinned PyO3 needs; an older compiler still builds the module
    debug=False,
    optional=True,
)

setup(rust_extensions=[MODULE, CORE], cmdclass={"build_rust": BuildModule, "bdist_wheel": ModuleWheel})
