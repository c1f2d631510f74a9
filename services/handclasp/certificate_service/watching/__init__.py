"""The barrier: how relying parties learn of changes, and how taking away waits for them.

`docs/revocation.md` has the protocol; the rules that comments here refer to are numbered there.
"""
