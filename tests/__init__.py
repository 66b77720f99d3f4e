"""Tests of swanroam: unit and property tests need nothing, the lab needs root and a kernel with ESP."""
