"""What is in Python's standard library? Every file is parsed by a task, and the results are reduced here.

Another directory can be given: `python examples/04_stdlib_report.py src`. `zmqtasks demo` does this with
more to see, and with the library's own tests, which are left out here: they are more than half of it.
"""

import ast
import sys
import sysconfig
import warnings
from collections import Counter
from pathlib import Path

from zmqtasks import Client, progress_bar

root = Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib"))


def analyse(path):
    """Return the functions (lines, name, file), the number of classes, and the modules imported by a file."""
    warnings.simplefilter("ignore")
    functions, classes, modules = [], 0, set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions.append((node.end_lineno - node.lineno + 1, node.name, str(path.relative_to(root))))
        elif isinstance(node, ast.ClassDef):
            classes += 1
        elif isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module)
    return functions, classes, modules


elsewhere = {"site-packages", "test", "tests"}
paths = [path for path in root.rglob("*.py") if elsewhere.isdisjoint(path.relative_to(root).parts)]
functions, classes, imported, skipped = [], 0, Counter(), 0

with Client() as client:
    for future in progress_bar([client.submit(analyse, path) for path in paths], "parsing"):
        if isinstance(future.exception(), SyntaxError):  # written for another Python
            skipped += 1
            continue
        found, number, modules = future.result()
        functions += found
        classes += number
        imported.update(modules)

print(f"{len(paths)} files, {len(functions)} functions, {classes} classes, {skipped} skipped")
for lines, name, file in sorted(functions, reverse=True)[:3]:
    print(f"longest: {name} in {file}, {lines} lines")
for module, count in sorted(imported.items(), key=lambda item: (-item[1], item[0]))[:3]:
    print(f"imported most: {module}, by {count} files")
