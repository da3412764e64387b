"""What an archive survives: kills at any instant, disks that fail, losses of power."""
