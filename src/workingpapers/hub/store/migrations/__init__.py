"""The steps that made the schema what it is. A step that was released never changes."""
