"""What every training shares: resumable loop, checkpoints, curves, sample schedulers."""
