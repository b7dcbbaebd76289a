"""What an application finds in its environment, and Kubernetes' `$(NAME)` in its command. Pure.

Called by `agent.application`. The order is that of precedence: what the agent itself was started with, then what the
mesh adds, then the document's `env`, which wins, as it would in a container.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping

from headrace.agent.capture import Attachment
from headrace.agent.spec import ReplicaSpec

_REFERENCE = re.compile(r"\$(?:\$|\(([^()$]*)\))")
_INHERITED_NOT = re.compile(r"HEADRACE_.*|PORT|PORT_.*|(?:HTTP|NO)_PROXY", re.IGNORECASE)


def expand(text: str, values: Mapping[str, str]) -> str:
    """Kubernetes' rule: `$(NAME)` becomes the value where there is one and stays as it is elsewhere, `$$` is `$`."""

    def one(match: re.Match[str]) -> str:
        name = match.group(1)
        return "$" if name is None else values.get(name, match.group(0))

    return _REFERENCE.sub(one, text)


def application_environment(
    spec: ReplicaSpec, attachment: Attachment, proxying: Mapping[str, str], inherited: Mapping[str, str]
) -> dict[str, str]:
    """The whole environment of one application process. `proxying` are the capture strategy's variables.

    PORT is where the process must listen (on 127.0.0.1) for the workload's first port; PORT_<NAME> and PORT_<NUMBER>
    for each. A variable of the document may refer to those before it.
    """
    found = {name: value for name, value in inherited.items() if not _INHERITED_NOT.fullmatch(name)}
    found |= proxying
    found |= _facts(spec, attachment)
    for name, value in spec.env:
        found[name] = expand(value, found)
    return found


def application_command(command: Iterable[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """The command with its references to the environment resolved."""
    return tuple(expand(word, environment) for word in command)


def _facts(spec: ReplicaSpec, attachment: Attachment) -> dict[str, str]:
    facts = {
        "PORT": str(attachment.local_port(0)),
        "HEADRACE_REPLICA": spec.id,
        "HEADRACE_NAMESPACE": spec.namespace,
        "HEADRACE_WORKLOAD": spec.workload,
        "HEADRACE_INDEX": str(spec.index),
        "HEADRACE_ADDRESS": attachment.address,
        "HEADRACE_IDENTITY": spec.identity.uri,
        "HEADRACE_PYTHON": sys.executable,
    }
    for port in spec.ports:
        local = str(attachment.local_port(port.number))
        facts[f"PORT_{port.number}"] = local
        if port.name:
            facts[f"PORT_{re.sub('[^A-Za-z0-9]', '_', port.name).upper()}"] = local
    return facts
