"""What surrounds the pipeline: inputs become items, results become lines, lines an output that can be resumed.

    inputs, formats    files, globs and standard input as batches of items
    rendering          what runs in the children: an item's result, or failure, as bytes
    notation           a result as JSON, as Python shows it, or pickled
    command            a shell command as that which is run
    batch              what the children of a batch gave, on its way to the sink
    results            the output: lines that survive, and which inputs they are of

An **item** is a value (a line, a JSON value, a CSV row) or a `BadInput`, and has an **index**, its place among all
items from 0 on. Nothing here knows of sockets, processes of ours or time.
"""
