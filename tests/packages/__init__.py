"""The packages: built, judged by the distributions' own tools, and lived with on real Debian machines."""
