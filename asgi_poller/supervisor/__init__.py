"""The parent of the workers: it spawns, watches, reloads and upgrades them."""
