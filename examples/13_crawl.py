"""A crawl that grows its own graph: what a module imports, and what that imports, and so on.

Each task reads one module and returns the names that it imports; the crawl asks for what it has not seen as the answers
come. The second part lets a task replace itself by a workflow.
"""

import ast
import sys
from importlib.util import find_spec
from pathlib import Path

from zmqtasks import Client, as_completed, chord, current, group, signature

START = sys.argv[1] if len(sys.argv) > 1 else "logging"


def links(name):
    """Return the modules of the standard library that are imported at the top of one of them."""
    spec = find_spec(name)
    if not (spec and (spec.origin or "").endswith(".py")):
        return set()
    tree = ast.parse(Path(spec.origin).read_text("utf-8"))
    found = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    found |= {
        node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }
    return {module for module in found if module.partition(".")[0] in sys.stdlib_module_names}


def crawl(client, start):
    """Breadth first: what an answer names is asked for at once."""
    seen, pending = {start}, {client.submit(links, start)}
    while pending:
        pending.remove(future := next(iter(as_completed(pending))))
        new = future.result() - seen
        seen |= new
        pending |= {client.submit(links, name) for name in new}
    return seen


def depth(name, budget):
    """Return the longest way that starts here, up to `budget`: a task that becomes a chord of its like."""
    if budget and (names := sorted(links(name))):
        current().replace(
            chord(group(signature(depth, each, budget - 1) for each in names), signature(deeper))
        )
    return 0


def deeper(depths):
    """Return one more than the deepest below."""
    return 1 + max(depths)


with Client() as client:
    print(f"{START} needs {len(crawl(client, START))} modules, itself among them")
    print("steps down, four at most:", client.submit(depth, START, 4).result())
