"""A package by name, lest another distribution's `tests` be imported in its place."""
