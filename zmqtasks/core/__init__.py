"""The decisions, pure: no socket, clock, chance, thread or file in here (a test bans the imports).

A machine is four methods:

    receive(peer, message, now)   only notes what came
    turn(now) -> effects          decides, once for everything that was noted
    next_deadline() -> float      when `turn` is due even if nothing comes, or None
    check()                       asserts the invariants, in both directions

The host brings messages and the time (seconds, any origin), and performs the effects in the order given:

        submit, cancel --> +--------------+ --> Record   (journal: before the send that depends on it)
                           |  Dispatcher  | --> Send     (run, recall, ... to a worker)
        done, returned --> |              | --> Settle   (outcomes, to whoever asked for them)
        joined, lost  -->  +--------------+ --> End      (this worker must go: cancelled by force, or over its limit)
        claimed            queue  join  pace    Look     (what does this worker run, and since when?)
                           retry  limits        Answer   (to a cancel)

Glossary. *Peer*: a worker as the dispatcher sees it: a child process of an embedded client or of a node. *Hand*: what
a peer was sent and has not answered. *Lease*: a task's place in a hand, `(peer, ordinal)`; an answer counts only if it
names the current one, so that late and repeated answers are harmless. *Credit*: how much a peer may have in hand,
in seconds. *Recall*: asking for what has not started. *Span*: neighbours of a `map` in one record. *Attempt*: a handing
out that began, or may have. *Delivery*: an attempt that was running when its worker died. *Settle*: the one and only
final outcome.
"""
