"""Fuzzing of every decoder with atheris: `python -m tests.fuzz`."""
