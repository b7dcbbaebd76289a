"""The only room that wires: control plane, agent, management API and command line."""
