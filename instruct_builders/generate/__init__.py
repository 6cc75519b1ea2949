"""Data written by a language model: an engine that loses nothing and pays for nothing twice, and the methods on it.

Nothing here is imported by `import instruct_builders`; the extra `generate` installs what `engine.py` needs.
"""
