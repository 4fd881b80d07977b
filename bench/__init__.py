"""Benchmarks of zmqtasks beside the process pools of Python, measured alternately in one run.

`python -m bench` asks every question, `python -m bench profile` shows where a task's microseconds go,
`python -m bench pipeline` measures the pipeline beside `multiprocessing.Pool.imap_unordered` and GNU parallel.

Glossary: a *question* is one thing worth knowing (`bench/questions/`, a module each), its answer one or more
*figures*; a *contestant* is a pool that answers it (`contestants.py`); a *round* asks each contestant once,
in turn (`rounds.py`).
"""
