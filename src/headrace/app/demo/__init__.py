"""`headrace demo`: the canary example, live, with real requests. `story` tells it, `answers` counts, `stage` sets it."""
