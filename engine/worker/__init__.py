"""The process that Blender starts to reconstruct: JSON lines out, one word in (docs/json.md)."""
