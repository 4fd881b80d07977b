"""The whole system in one thread, with a virtual clock and one seed: machines, their hosts and workers, links, faults.

    python -m tests.sim SEED [--nodes]      one seed, with every message
    python -m tests.sim --seeds 2000        many; the first that fails is named
    python -m tests.sim --seeds 2000 --nodes
    python -m tests.sim --seeds 2000 --nodes --flows --points
    python -m tests.sim --seeds 2000 --pipeline

A seed draws a world (how many children, which faults, which features) and a workload, a random graph of tasks. With
`--nodes` the world has two levels: a broker's dispatcher, nodes, and the children of each. Phase one, safety: children
and nodes crash, stop, are given up for lost while they live on, messages come late and twice, clocks jump. Phase two,
liveness: no more faults, and everything has to settle. The oracle is the same graph evaluated here (`work.py`), beside
what must hold at every start and end of a task (`truth.py`) and after every turn of a machine (`host.py`, `top.py`,
`node.py`).

With `--flows` there are workflows (`flows.py`). With `--points` processes stop between any two of their effects, the
broker and its client too (`points.py`, `program.py`); `small.py` has runs for each point of small workflows.

With `--pipeline` it is another system: `pipeline.py` says which.

What comes twice: outcomes, answers to a recall, submits; between broker and node nothing does, one link is one order.
"""

from .system import CORE, Core, Sim, first_failure
from .worlds import Wrong

__all__ = ["CORE", "Core", "Sim", "Wrong", "first_failure"]
