"""Operating system services: child processes, locks, threads, caches, machine facts."""
