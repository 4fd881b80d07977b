"""What is remembered: a seam. A journal takes the records of a turn before its other effects are performed.

`append(record)` remembers; `unsettled()` tells, after whatever happened, which tasks were accepted and not settled, and
how often each was running when its worker was lost. Memory is the first; what survives a restart comes with the broker.
The embedded client needs none: its tasks live as long as its process.
"""
