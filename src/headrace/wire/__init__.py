"""The agent API as generated from proto/headrace/wire/agent_v1.proto (`make proto`); edited nowhere."""
