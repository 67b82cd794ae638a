"""The keys in Redis, and which of them a script may name.

`{pN}` is the hash tag of a partition: all keys of an instance share a Redis Cluster slot.
`<i>` (outbox) and `<s>` (lane) are random ids that are never given twice. Dates and ages
are milliseconds of Redis' clock, as stream ids are.

    key                        type     holds
    evo:{pN}:outbox:<i>        stream   entries: id, event, to, at, size, meta, mode, ws, w, data
    evo:{pN}:body:<i>:<entry>  string   data above INLINE_BODY_BYTES; goes with its entry
    evo:{pN}:unwanted:<i>      stream   events that no subscription got: id, event, why (expires)
    evo:{pN}:config:<i>        hash     revision, epoch, lanes, edge, kept, ws, paid, or gone
    evo:{pN}:seen:<i>          zset     caller-given ids by when they were accepted; half a
                                        millisecond is added where prints has the id (expires)
    evo:{pN}:prints:<i>        hash     fingerprints of event name and data, by id (expires)
    evo:{pN}:waiting:<s>       zset     the lane: every entry not settled; 0 = new, else next try
    evo:{pN}:tries:<s>         hash     entries that failed: how often
    evo:{pN}:early:<s>         hash     retries that came before their date: tries, date, cause
    evo:{pN}:dying:<s>         hash     entries given up: tries and reason, until their letter
    evo:{pN}:graves            set      lanes with something in dying
    evo:{pN}:lane:<s>          hash     hold, flags, breaker, last error, losses, books, pace, fails
    evo:{pN}:failing           zset     lanes whose attempts fail, by when the clock looks at them
    evo:{pN}:buried            hash     letters not yet reported to the operator, by lane
    evo:{pN}:due:<sink>        zset     lanes by when to look at them next
    evo:{pN}:alone:<sink>      zset     the same for lanes that lost three holds in a row
    evo:{pN}:oldest:<sink>     zset     lanes by the age of their oldest entry
    evo:{pN}:weight            zset     lanes by bytes waiting
    evo:{pN}:weighing          string   the sum of weight
    evo:{pN}:stored            zset     instances by bytes of the entries on their outbox and of
                                        their unwanted events
    evo:{pN}:storing           string   the sum of stored
    evo:{pN}:recount           hash     a recount of stored: its instance, last entry, sum so far
    evo:{pN}:over              set      lanes beyond a limit of entries or bytes
    evo:{pN}:aging             zset     instances by when their oldest retained entry leaves, or
                                        their oldest unwanted event
    evo:{pN}:gone:<s>:waiting  zset     a destroyed lane, until it is swept
    evo:{pN}:gone:<s>:dying    hash     the same
    evo:{pN}:gone:<s>:<n>:waiting  zset   a backlog that was purged, until it is swept
    evo:{pN}:sweep             set      what is to be swept
    evo:{pN}:totals            hash     counters by sink, histograms of latency
    evo:{pN}:awake:<sink>      string   a drain is awake for this sink (expires)
    evo:{pN}:drains:<sink>     hash     the drains that are awake, and their lanes (expires)
    evo:{pN}:rung:<sink>       string   a bell is on its way (expires)
    evo:{pN}:asked:<sink>      list     tests of subscriptions that no drain took yet
    evo:{pN}:trials:<sink>     zset     tests that are open, with their instance, by their end
    evo:{pN}:trial:<id>        hash     a test: its lane, its request, its story (expires)
    evo:{pN}:feed              stream   a line for each append that websockets want, and each change
    evo:{pN}:fed               string   lines the feed ever had: a reader sees that it missed some
    evo:{pN}:attempts          stream   batches of attempts until the clock has written their rows
    evo:{pN}:logging           string   bytes of these batches
    evo:{pN}:copied            string   written before replicas are waited for
    evo:{pN}:wake:<sink>       channel  lanes with something new; empty: some lane is due
    evo:partitions             set      partitions in use
    evo:clock                  string   who does the chores (expires)
    evo:operator               string   who goes on with operations (expires)
    evo:chores                 hash     when each chore was last done, and what it saw
    evo:alarms                 hash     the last change that the clock reported of disk and memory
"""

from __future__ import annotations

PARTITIONS = "evo:partitions"
CLOCK = "evo:clock"
OPERATOR = "evo:operator"
CHORES = "evo:chores"
ALARMS = "evo:alarms"


def prefix(partition: int) -> str:
    """What every key of the partition begins with; also KEYS[1] of every script."""
    return f"evo:{{p{partition}}}:"


def outbox(partition: int, i: str) -> str:
    return f"{prefix(partition)}outbox:{i}"


def body(partition: int, i: str, entry: str) -> str:
    return f"{prefix(partition)}body:{i}:{entry}"


def unwanted(partition: int, i: str) -> str:
    return f"{prefix(partition)}unwanted:{i}"


def of(partition: int, name: str) -> str:
    """A key of the partition by its name in the drawing, `due:webhook`."""
    return f"{prefix(partition)}{name}"


def copied(prefix: str) -> str:
    """By the prefix that a call carries."""
    return f"{prefix}copied"
