"""Asks the package index for known vulnerabilities of everything that the lock files name. Called by `make audit`.

Exit 0: none known, or the index that this machine reaches publishes no advisories (said as SKIPPED); 1: some, listed.
The three Rust crates that run inside Envoy have no dependencies; those of the binding are in native/python/Cargo.lock.
"""

from __future__ import annotations

import json
import subprocess
import sys

_LIMIT = 300.0


def main(locks: list[str]) -> int:
    found: dict[str, str] = {}
    audited: set[str] = set()
    for lock in locks:
        command = [sys.executable, "-m", "pip_audit", "--requirement", lock, "--require-hashes", "--disable-pip"]
        command += ["--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
        try:
            rows = json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError):
            print(f"SKIPPED: audit of {lock}: {(done.stderr.strip() or 'no answer').splitlines()[-1]}")
            continue
        for row in rows:
            if "skip_reason" in row:
                continue
            audited.add(row["name"])
            for known in row["vulns"]:
                fixed = ", ".join(known["fix_versions"]) or "none yet"
                found[f"{row['name']} {row['version']}: {known['id']}"] = f"fixed in: {fixed} ({lock})"
    for what, remedy in sorted(found.items()):
        print(f"{what}; {remedy}")
    if found:
        print("Run `make lock`; what has no fix yet is judged by hand.")
        return 1
    if audited:
        print(f"audit: no known vulnerability in {len(audited)} packages")
    else:
        print("SKIPPED: audit: the package index that this machine reaches publishes no advisories")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
