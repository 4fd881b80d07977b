"""What surrounds the pipeline: inputs become items, results become lines, lines an output that can be resumed.

    sources, compression     files, globs and standard input as blocks of bytes
    formats, table, inputs   blocks as items: lines, JSON lines, CSV
    rendering, notation      what runs in the children: an item's result, or failure, as bytes
    template, command        a shell command as that which is run
    batch                    what children made of neighbours, on its way to the sink
    present, results         which inputs an output has already; lines that survive
    progress                 how far a run is

An **item** is a value (a line, a JSON value, a CSV row) or a `BadInput`, and has an **index**, its place among all
items from 0 on. Nothing here knows of sockets, processes of ours or time.
"""
