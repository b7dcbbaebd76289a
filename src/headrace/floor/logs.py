"""Logging of the long-running roles: structlog, one line an event, to standard error."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(role: str, *, json: bool = False, debug: bool = False) -> None:
    """Set up logging for this process; `role` stands in every line ("agent", "control-plane")."""
    level = logging.DEBUG if debug else logging.INFO
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
    structlog.contextvars.bind_contextvars(role=role)
