"""Request traces: who asks for how much when, with which shared prefixes. Made up, or read."""
