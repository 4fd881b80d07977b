"""The hosts of the pure core: they have the sockets, the processes and the clock, bring it messages, do what it says.

An embedded client is three kinds of process, each a node of its own; nodes do not import one another (a test reads the
imports):

    local        in the client's process: the dispatcher, one I/O thread, and the children as its workers
      | loop, crew, children, asks, relay
    forkserver   a process without user code: forks the children, hears of their deaths, leaves none behind
      |
    child        the process that runs tasks, one at a time, with a service thread that answers the host meanwhile
        outbox, failure, output, reporter, upstream

The plumbing, from the socket up. Both sides: `link` carries messages, frames and descriptors over a stream socket (each
child has two: data, and control, which its service thread reads); `claim` is the shared page where a child writes what
it is running, so that a crash is blamed on one task; `ids` makes ids that no other session makes.

The host's side: `loop` sleeps until a socket, a deadline or another thread wakes it; `crew` starts the fork server and
knows the children by their links; `children` keeps as many as there should be, hears them and tells them; `asks` is
what tasks submit themselves, and the way of the outcomes back to them; `relay` brings what tasks print to the caller's
`sys.stdout` where that is not the process's own descriptor, as in a notebook.

The child's side: `outbox` batches outcomes; `failure` makes a payload of what a task raised; `output` puts the task's
name before each line that it prints or logs; `reporter` sends progress, ten times a second at most; `upstream` is the
host of the client that a task finds within itself: the dispatcher that it came from.
"""
