"""charon over vici: events on one connection, commands on another."""
