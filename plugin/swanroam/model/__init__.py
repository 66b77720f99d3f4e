"""Frozen values: what is known (tunnels, paths, addresses), what happened (events), what is to be done (effects)."""
