"""Decisions: pure functions and one state machine; no I/O, no clock, no randomness."""
