"""Many short jobs on real processes, killed, frozen and cut off at seeded random instants."""
