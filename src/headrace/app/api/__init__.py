"""The management API: HTTP with JSON over the mesh's owner-only Unix socket. `server` answers, `client` asks."""
