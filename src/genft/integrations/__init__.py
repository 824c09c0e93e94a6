"""Other programs that load adapters by a name in their own files; each is optional."""
