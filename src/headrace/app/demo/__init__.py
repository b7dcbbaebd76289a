"""`headrace demo`: the canary example, with real requests. `story` tells it, `answers` counts, `stage` sets it."""
