"""Adapters to packages that run models through an interface of their own.

Each module imports its host when it is itself imported, and nothing here is imported by the rest of
the package.
"""
