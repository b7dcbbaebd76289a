"""Transparent capture: a network namespace, an address and a user of its own for every replica of a workload.

`capture` is the strategy that `agent` uses. `plan` (names, addresses, users) and `rules` (redirection) are pure;
`links` runs `ip` and `nft`; `enter` is the program that puts a process into its namespace; `egress` is the way outside;
`names` forwards questions for names outside the mesh; `support` says whether this machine can do it; `leftovers`
removes what a crash left.
"""
