"""Configuration: frozen models, parsed once. `load.py` reads files, environment and flags."""
