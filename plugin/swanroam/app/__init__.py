"""The program: configuration, daemon, command line, store, control socket."""
