"""The hooks that are shipped with swanroam; they are loaded through the same entry points as anybody else's."""
