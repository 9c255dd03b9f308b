"""Volume and entropy: what noise adds to the geometry."""
