"""Headrace: a service mesh for AI inference."""

__version__ = "0.1.0"
