"""Adapters: each drives one engine the same way, in a process of its own (see ``protocol``)."""
