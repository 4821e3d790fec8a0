"""Reading Python files without running them: text, tree, imports, suppressions, positions. No torch here."""
