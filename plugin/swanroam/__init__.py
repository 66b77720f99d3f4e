"""swanroam: keeps strongSwan tunnels alive when the terminal's outer address changes."""

__version__ = "0.1.0"
__all__ = ["__version__"]
