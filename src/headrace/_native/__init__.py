"""Holds the native module that the package's build puts here (`libheadrace_envoy.so`); Envoy loads it, Python never.

`headrace.envoy.module` finds and checks it. Where the build had no Rust compiler, the directory is empty but for this
file.
"""
