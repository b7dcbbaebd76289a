"""What a restarted agent must know to go on with what runs: children.json, mode 0600, replaced after every change.

Written by `agent.host`, read once at its start. It holds what cannot be found out again: pids with start times, the
addresses and ports given out, the secret in each application's HTTP_PROXY, and each replica's assignment. Keys of
certificates are not in it: they live in memory, and a restarted agent asks for new ones.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.agent.capture import Attachment
from headrace.floor.files import write_private
from headrace.floor.processes import ProcessMark

SCHEMA = 1
_FILE = "children.json"
_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True)
class ChildRecord:
    """A process that was running when the record was written."""

    process: ProcessMark
    mark: str

    def as_json(self) -> dict[str, Any]:
        return {"pid": self.process.pid, "start": self.process.started, "mark": self.mark}

    @classmethod
    def parse(cls, data: Any) -> ChildRecord | None:
        if data is None:
            return None
        return cls(ProcessMark(int(data["pid"]), int(data["start"])), str(data["mark"]))


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """One replica as it stood: `message` is its assignment, `ready` what was last reported of it."""

    id: str
    message: bytes = field(repr=False)
    attachment: Attachment
    app: ChildRecord | None = None
    proxy: ChildRecord | None = None
    ready: bool = False
    restarts: int = 0
    started_unix_ms: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "message": base64.b64encode(self.message).decode(),
            "attachment": self.attachment.as_json(),
            "app": self.app.as_json() if self.app else None,
            "proxy": self.proxy.as_json() if self.proxy else None,
            "ready": self.ready,
            "restarts": self.restarts,
            "started_unix_ms": self.started_unix_ms,
        }

    @classmethod
    def parse(cls, data: Any) -> ReplicaRecord:
        return cls(
            id=str(data["id"]),
            message=base64.b64decode(data["message"]),
            attachment=Attachment.parse(data["attachment"]),
            app=ChildRecord.parse(data["app"]),
            proxy=ChildRecord.parse(data["proxy"]),
            ready=bool(data["ready"]),
            restarts=int(data["restarts"]),
            started_unix_ms=int(data["started_unix_ms"]),
        )


@dataclass(frozen=True, slots=True)
class Children:
    """Everything that the agent runs, by replica id, and the control plane."""

    replicas: Mapping[str, ReplicaRecord] = field(default_factory=dict)
    control_plane: ChildRecord | None = None

    def save(self, directory: Path) -> None:
        """Replace children.json."""
        data = {
            "schema": SCHEMA,
            "control_plane": self.control_plane.as_json() if self.control_plane else None,
            "replicas": [self.replicas[name].as_json() for name in sorted(self.replicas)],
        }
        write_private(directory / _FILE, json.dumps(data, indent=1).encode())

    @classmethod
    def load(cls, directory: Path) -> tuple[Children, str]:
        """What was saved, and why nothing was (empty where all is well). An unreadable file counts as none: the agent
        then ends whatever carries the mesh's mark and starts anew."""
        path = directory / _FILE
        try:
            with path.open("rb") as file:
                data = json.loads(file.read(_LIMIT))
            if data["schema"] != SCHEMA:
                return cls(), f"{path}: schema {data['schema']!r} is not {SCHEMA}"
            records = [ReplicaRecord.parse(item) for item in data["replicas"]]
            return cls({record.id: record for record in records}, ChildRecord.parse(data["control_plane"])), ""
        except FileNotFoundError:
            return cls(), ""
        except (OSError, ValueError, KeyError, TypeError, AttributeError, binascii.Error, RecursionError) as error:
            return cls(), f"{path} cannot be read ({type(error).__name__})"
