"""The commands of `flexseg`, by what they are about. Each loads its config, checks it, and calls the stages.

What a command needs is imported inside it, so that `flexseg --help` answers at once.
"""
