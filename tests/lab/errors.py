"""What goes wrong in the lab itself, as opposed to in the programs under test."""

__all__ = ["AgentRefused", "Ended", "LabError", "LinkRefused", "NeverCame"]


class LabError(Exception):
    """The lab could not do what a story asked."""


class LinkRefused(LabError):
    """The kernel refused a change of addresses or routes."""


class AgentRefused(LabError):
    """A host's agent could not carry out a command."""


class Ended(LabError):
    """A program that should run has ended: waiting longer is of no use."""


class NeverCame(LabError, AssertionError):
    """A condition was not met before its deadline."""
