"""Long runs: checkpoints, and sweeps over many samplers."""
