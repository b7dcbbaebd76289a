"""The control plane process: documents in, discovery and certificates out; wired from the other rooms."""
