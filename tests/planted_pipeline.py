"""Bugs to plant in the pipeline's machines, as `planted.py` does it in the dispatcher's."""

from __future__ import annotations

from planted import Bug, changed
from sim.pipeline import PipeCore

MODULES = ("ranges", "pace", "parcels", "gather", "stream")  # in the order of their imports

# Tried and not seen in 250 worlds, so that unit tests have to do: what is ready and done keeps all from being asked;
# who is new is taken to have looked into the pipe; who leaves has to look too; what is behind what is forgotten is not
# asked for.
BUGS = {
    # ---- what goes out
    "a batch is cut one item short": Bug(
        "stream", "limit = offset + self.batch_items\n", "limit = offset + self.batch_items - 1\n"
    ),
    "what is left of a cut batch is forgotten": Bug(
        "stream",
        "            self._put(self._part(parcel, start, end))\n",
        "            self._part(parcel, start, end)\n",
    ),
    "each time a batch goes out under the same ordinal": Bug(
        "stream", "        batch.sends += 1\n", "        batch.sends = 1\n"
    ),
    "what the pipe refuses is taken for sent": Bug(
        "stream", "        parcel = self._sent.pop(run.first)\n", "        parcel = self._sent[run.first]\n"
    ),
    "what is halted goes out": Bug(
        "stream", "if not self.hands or self.is_halted or", "if not self.hands or"
    ),
    "a worker is not told how often it has failed": Bug(
        "stream", "Course(inf, parcel.retries, parcel.log), attempt", "Course(inf, 0, parcel.log), attempt"
    ),
    "a worker is not told how many have died of it": Bug(
        "stream", "deliveries=parcel.deliveries, course", "deliveries=0, course"
    ),
    # ---- outcomes
    "an outcome counts in the parcel it was sent in alone": Bug(
        "stream",
        "        for parcel in batch.parcels:\n            removed",
        "        for parcel in batch.parcels[:1]:\n            removed",
    ),
    "what is done stays in the hand": Bug(
        "stream",
        "            if not parcel.rest:\n                self._take_out(parcel)\n",
        "            pass\n",
    ),
    "what is done is given out again": Bug(
        "parcels", "        while entries and not entries[0][2].rest:\n            heappop(entries)\n", ""
    ),
    "a batch that is done is kept": Bug("stream", "            del self._batches[batch.base]\n", ""),
    # ---- failures
    "one retry too many": Bug("stream", "if retries >= rule.max or late:", "if retries > rule.max or late:"),
    "a retry does not wait": Bug("stream", "self._put_off(again, due)", "self._put_off(again, now)"),
    "all of a parcel is retried with its item": Bug(
        "stream",
        "again = self._part(parcel, item, item + 1)",
        "again = self._part(parcel, *next(iter(parcel.rest)))",
    ),
    "retries are not counted": Bug("stream", "deliveries, retries + 1, log", "deliveries, 1, log"),
    "deaths are forgotten with a retry": Bug("stream", "max(parcel.deliveries, deliveries)\n", "0\n"),
    "deaths are forgotten with what comes back": Bug(
        "stream", "max(part.deliveries, died.get((ordinal, first), 0))", "part.deliveries"
    ),
    "a part has no history": Bug(
        "parcels",
        "        part.deliveries, part.retries, part.log = self.deliveries, self.retries, self.log\n",
        "",
    ),
    "the first of what has ended stands for all": Bug(
        "stream", "for item in range(end.offset, end.offset + end.items)", "for item in range(0, end.items)"
    ),
    "whoever is not a worker any more is heard about failures": Bug(
        "stream",
        "        return hand.parcels.get(ordinal) if hand is not None else None\n",
        "        return next((p for h in self.hands.values() for p in h.parcels.values() if p.batch.base == ordinal & 0xFFFFFFFFFF), None)\n",
    ),
    # ---- workers
    "what a lost worker had is lost with it": Bug(
        "stream",
        "for parcel in hand.parcels.values():\n            if hand.leaving",
        "for parcel in ():\n            if hand.leaving",
    ),
    "the last outcomes of who leaves are not waited for": Bug(
        "stream", "if hand.leaving:  # its last", "if False:  # its last"
    ),
    "who is silent keeps what it has": Bug(
        "stream", "if now - hand.heard > silence_s]", "if now < hand.heard]"
    ),
    "who is given up is not told": Bug(
        "stream", "            self._effects.append(End(hand.id))\n", "            pass\n"
    ),
    "all are given up when this process has stood still": Bug(
        "stream", "if looked is None or now - looked > silence_s / 2:", "if looked is None:"
    ),
    "whoever has nothing to say is given up": Bug(
        "stream", "            hand.heard = now\n        if type", "            pass\n        if type"
    ),
    # ---- what is lost in the pipe
    "what is lost in the pipe is not found": Bug(
        "stream", "if parcel.sent_at + PIPE_S <= drained]", "if drained == inf]"
    ),
    "what is in the pipe is taken for lost": Bug(
        "stream", "if parcel.sent_at + PIPE_S <= drained]", "if parcel.sent_at <= drained]"
    ),
    "one that has looked is enough": Bug("stream", "drained = min(\n", "drained = max(\n"),
    "nobody looks while all seem busy": Bug(
        "stream", "pause_s = self._overdue_s if busy", "pause_s = inf if busy"
    ),
    "what is lost is looked for only where too much is held": Bug(
        "parcels", "due = max(self.asked_at, sent_at) + pause_s", "due = inf"
    ),
    # ---- what comes back
    "nobody is asked to give back": Bug("parcels", "if busy or self.barren or not self.parcels:", "if True:"),
    "who has nothing to give back is asked all the same": Bug(
        "stream", "hand.barren = not message.rest", "hand.barren = False"
    ),
    "a claim changes nothing for who had nothing": Bug("stream", "                hand.barren = False\n", ""),
    "who was asked once is not asked again": Bug(
        "stream", "            hand.asked = False\n", "            pass\n"
    ),
    "what comes back stays in the hand too": Bug(
        "stream", "parcel.rest.remove(offset, offset + items):\n", "[(offset, offset + items)]:\n"
    ),
    "the next time to ask is not kept": Bug(
        "stream", "                self._ask_at = min(self._ask_at, due)\n", "                pass\n"
    ),
    "a halt lasts beyond its run": Bug(
        "stream",
        "        self.unsettled = self.freed_bytes = 0\n        self.is_halted = False\n",
        "        self.unsettled = 0\n",
    ),
    "a dropped run stays in the hands": Bug(
        "stream", "            hand.parcels.clear()\n", "            pass\n"
    ),
    "a dropped run stays in the pipe": Bug(
        "stream", "        self._sent = {}\n        self.unsettled", "        self.unsettled"
    ),
    # ---- ranges, and what the sink gives out
    "neighbours are taken for known": Bug(
        "ranges",
        "        if at < limit:\n            new.append((at, limit))\n",
        "        if at < limit and start == end:\n            new.append((at, limit))\n",
    ),
    "what lies between two ranges is not new": Bug(
        "ranges", "            if at < known:\n                new.append((at, known))\n", ""
    ),
    "a range is cut in the wrong place": Bug(
        "ranges", "rest.append((limit, known[-1][1]))", "rest.append((limit + 1, known[-1][1]))"
    ),
    "the front of a cut range is lost": Bug(
        "ranges", "        if known[0][0] < first:\n            rest.append((known[0][0], first))\n", ""
    ),
    "a second outcome is given out too": Bug(
        "gather",
        "for start, limit in self.have.add(first, first + items)",
        "for start, limit in self.have.add(first, first + items) or [(first, first + items)]",
    ),
    "a piece has the values of another": Bug(
        "gather", "failed, payload, start - first)", "failed, payload, 0)"
    ),
    "outcomes of an earlier run are given out": Bug(
        "gather", "        if first < self._first:\n            return [], []  # of an earlier run\n", ""
    ),
    "only the first of what waits is given out": Bug(
        "gather", "        while self._later and", "        if self._later and"
    ),
    "what waits is counted for ever": Bug("gather", "            self.waiting -= piece.items\n", ""),
    "what is known is waited for": Bug(
        "gather", "if start <= first < limit), first)", "if start < first < limit), first)"
    ),
}


def plant(bug: Bug | None) -> PipeCore:
    """The machines with `bug` in them, or without any."""
    made = changed(bug, MODULES)
    return PipeCore(made["stream"].Stream, made["gather"].Gather, made["ranges"].Ranges)
