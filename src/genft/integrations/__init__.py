"""Integrations with programs that select an adapter method by name; each is optional."""
