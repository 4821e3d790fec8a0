"""Edits of the user's source: applied with LibCST, kept only if a new analysis proves them."""
