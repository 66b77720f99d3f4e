"""What holds for all tests."""

from hypothesis import settings

# How long an example takes says more about the machine than about the example; speed belongs in a benchmark.
settings.register_profile("swanroam", deadline=None)
settings.load_profile("swanroam")
