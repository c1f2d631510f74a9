/* The barrier of docs/revocation.md where two processes, the replicas, serve one database, for the checker Spin.
   Numbers in brackets are its rules, 18 to 21 above all. test_replicas_model.py runs it. barrier.pml has a single
   process in detail.

   What is modelled
   - The database: the history, and the rows of replicas. A replica that crashed comes back under a new id, and the
     row of the one before stays until somebody deletes it. One whose row was deleted while it was frozen registers
     anew.
   - Renewing a row, in the steps between which others move: the clock is read, the renewal is committed, the head is
     read and published, and only then is the lease longer (18, 19). Notifications come late, or never: nothing has to
     happen.
   - A taking-away at one replica: commit, publication with the list of its own relying parties, a look at the rows,
     the wait for both (20). Its caller may leave at any step. The other one may answer: it publishes, takes its list,
     waits, and writes so to its row; or says so with its next renewal.
   - Looks at rows at any time, as other barriers take them: a lease counts from when its renewal was seen first. A
     row whose lease is over is deleted, unless it was renewed since.
   - Relying parties: pings, pongs of a revision and under the replica's lease, changes, acknowledgements, answers on
     their way, a remembered yes. One that roams goes to either replica at any time, and keeps its lease. If the
     replica is behind what is applied, history counts as lost: the relying party goes on as a new process, without a
     lease.
   - Time as in barrier.pml. Everything is frozen, or late, when others move on without it.

   What is bounded: ticks of a lease, changes, relying parties, one unanswered ping each, one taking-away at a time,
   and one row of earlier ids for each replica: it crashes again once that one is gone. What is not: time, renewals,
   crashes, freezes, pings, streams, calls.

   What is left out, since barrier.pml has it in full, and a stream is always one with a single process
   - Messages on a stream. A change may be applied from when it is published where the relying party watches, and a
     pong arrives after the changes before it: what is on its way is as if it were sent later. What was acknowledged
     to a replica that was left is not heard any more. Lost pings, and late ones of earlier streams, make records
     longer, and nobody waits less for that.
   - Numbers of pings (2) and resets that keep the lease: a new stream forgets the ping, and its answers.
   - The order of publication and list inside one process (9), and calls that share questions: an answer that arrives
     while a late call could have joined is taken to be given to it.
   A pong is worth a little more here than it is: the replica's lease is subtracted without the way of the ping. What
   a replica says by notification and by its row is one: both are read by whoever waits, and stay true.
   Connections to a standby are not modelled, and restored backups are in parted.pml.

   Where replica 1 only answers (CALLERS=1), nobody looks at the row of replica 0, unless it crashes (CRASHES=1): it
   then need not renew. FAULT_... puts a fault in, which must be found. INVARIANT checks the invariant, too. REACH=n
   finds a run to the n-th of the things below that must be able to happen. The searches, each complete and without an
   error, with INVARIANT, on one core:

     search                 PARTIES ROAMS HOME LEASE CHANGES CRASHES     states  CPU time  memory
     roaming                      1     1    -     1       1       0    575,933       2 s  0.3 GB
     roaming for longer           1     1    -     2       1       0  4,509,659      26 s  0.9 GB
     roaming and restarts         1     1    -     1       1       2  3,687,189      17 s  0.8 GB
     answering                    1     0    1     3       1       0  1,003,906       5 s  0.4 GB
     caller restarts              1     0    0     1       1       1  5,745,842      30 s  1.0 GB
     pinned                       2     0    1     1       1       0  4,123,600      30 s  0.9 GB
     taken twice                  1     0    1     1       3       0  3,154,421      14 s  0.7 GB
     both take away (CALLERS=2)   1     0    0     1       1       0 12,053,280     120 s  2.0 GB

   `roaming` runs with each `make test`, the others with `make campaign`. A relying party that roams was too large to be
   searched completely with CRASHES=1, and with CALLERS=2, where a search that keeps three bits of each state (BITSTATE,
   4 GB) found no error in the 103,988,460 that it took for different ones. */

/* Relying parties, and whether they roam. If not, the first one stays at replica HOME, the second one at the other. */
#ifndef PARTIES
#define PARTIES 1
#endif
#ifndef ROAMS
#define ROAMS 1
#endif
#ifndef HOME
#define HOME 1
#endif
/* Replicas that take away: 0, or both. Those that crash, as bits. */
#ifndef CALLERS
#define CALLERS 1
#endif
#ifndef CRASHES
#define CRASHES 0
#endif
/* Ticks that a lease lasts, of relying parties and of replicas. */
#ifndef LEASE
#define LEASE 1
#endif
/* A taking-away, and a reinstatement, in turn. */
#ifndef CHANGES
#define CHANGES 1
#endif

/* How long others wait. */
#define LONGER (LEASE + 1)
#define NOWHERE 2

mtype = { idle, begun, joining, written };
mtype = { looked, committed, listed, waiting };
mtype = { none, sent, received, pong };

/* The database. An even revision took the certificate away, an odd one gave it back. Of each replica: the row of its
   present id and, once it was restarted, that of the id before; and what they acknowledge. */
byte head = 1;
bool row[2];
byte row_ack[2];
bool old[2];
byte old_ack[2];

/* The replicas. `certain` is what is left of a replica's own lease, `mine` of the one that it is about to have, and
   `settled` what it is about to say in its row. For each relying party: what is left of its lease as recorded, what it
   has acknowledged, and what is left of the wait for it when the replica answers the other's barrier. */
byte pub[2] = 1;
mtype renewal[2] = idle;
byte certain[2];
byte mine[2];
byte settled[2];
byte record[2 * PARTIES];
byte acked[2 * PARTIES];
byte answering[2];
byte wait_for[2 * PARTIES];

/* What a replica that takes away remembers of the rows of others: whether it has seen the last renewal, and what is
   left of the wait since it saw that first. */
#define OTHER 0
#define OTHER_BEFORE 1
#define OWN_BEFORE 2
bool known[3 * CALLERS];
byte seen[3 * CALLERS];

/* The call that takes away, at one of the replicas: its revision, and what is left of the leases that it waits for, of
   relying parties and of replicas. */
mtype call = idle;
byte caller;
byte revision;
byte need[PARTIES];
byte need_row[3];

/* The taking-away has returned, and no reinstatement was committed since: whatever call begins now is late. */
bool gone;

/* The relying parties: the replica that each watches, its last ping, what is left of the lease that this will be worth,
   and under which revision. An answer on its way and a remembered yes are kept as their revisions, which are those at
   which the certificate was there. They stand as long as nothing above is applied: the next revision takes away. */
byte stream[PARTIES] = NOWHERE;
mtype ping[PARTIES] = none;
byte left[PARTIES];
byte under[PARTIES];
byte lease[PARTIES];
byte applied[PARTIES] = 1;
byte answer[PARTIES];
byte yes[PARTIES];

hidden byte at, low;

#define AT(s, i) ((s) * PARTIES + (i))
#define SEEN(c, k) (3 * (c) + (k))
#define LAST (CHANGES + 1)
#define TAKEN (head % 2 == 0)
/* Acknowledgements of what took nothing away are as good as none: nobody waits for those. */
#ifdef FAULT_OLDER_ACK
#define TAKING(upto) (upto)
#define SAYS(ack) ((ack) > 0)
#else
#define TAKING(upto) ((upto) - (upto) % 2)
#define SAYS(ack) ((ack) >= revision)
#endif
#define CAN_CRASH(s) ((CRASHES >> (s)) % 2 == 1)
/* Whether anybody may have to wait for the lease of s. If not, it is certain of itself for ever. */
#define RENEWS(s) (1 - (s) < CALLERS || CAN_CRASH(s))
/* The last taking-away has returned. What only another barrier would look at is not kept from then on. */
#define DONE (gone && head == LAST)
#define UNSEEN(s) \
    (row[1 - (s)] && !known[SEEN(s, OTHER)] || old[1 - (s)] && !known[SEEN(s, OTHER_BEFORE)] \
     || old[s] && !known[SEEN(s, OWN_BEFORE)])

/* The invariant behind the law. `applied` goes back only without a lease: so it is enough to look when a pong arrives
   and when a call returns. */
#ifdef INVARIANT
byte returned;
#define HOLDS(i) assert(lease[i] == 0 || applied[i] >= returned)
#else
#define HOLDS(i) skip
#endif

/* Things that must be able to happen; with -DREACH=n, the n-th of them is reported as an error. */
#ifdef REACH
#define REACHED(what) assert((what) != REACH)
bool by_ack, by_end, thawed[2], restarted[2];
#else
#define REACHED(what) skip
#endif
#define REMEMBERED 1
#define BY_ACKNOWLEDGEMENT 2
#define BY_LEASE_OF_REPLICA 3
#define ROAMED_WITH_LEASE 4
#define LEASE_AFTER_THAW 5
#define LEASE_WHILE_GONE 6
#define BEHIND 7
#define CAUGHT_UP 8
#define AFTER_RESTART_OF_CALLER 9
#define AFTER_RESTART_OF_OTHER 10
#define SHORTENED 11
#define TAKEN_TWICE 12
#define RENEWED_WHILE_AWAITED 13

#if PARTIES > 1
#define NOBODY(timers, s) (timers[AT(s, 0)] == 0 && timers[AT(s, 1)] == 0)
#else
#define NOBODY(timers, s) (timers[AT(s, 0)] == 0)
#endif

#define NO_ROW (need_row[OTHER] == 0 && need_row[OTHER_BEFORE] == 0 && need_row[OWN_BEFORE] == 0)

#if defined(FAULT_ROWLESS) || defined(REACH)
bool deleted[2];
#endif
#ifdef FAULT_HEAD_EARLY
byte early[2];
#endif
#ifdef FAULT_SEEN_EARLY
byte before[CALLERS];
#endif
#ifdef FAULT_DELETES_RENEWED
bool over[3 * CALLERS];
#endif

inline tick(timer) {
    if :: timer > 0 -> timer-- :: else fi;
    skip
}

active proctype Clock() {
    do
    :: d_step {
        true ->
        at = 0;
        do
        :: at < 2 * PARTIES -> tick(record[at]); tick(wait_for[at]); at++
        :: else -> break
        od;
        at = 0;
        do
        :: at < PARTIES ->
            tick(lease[at]); tick(need[at]);
            /* A ping whose lease would be over is worth nothing any more. */
            if
            :: left[at] == 1 -> left[at] = 0; ping[at] = none; under[at] = 0
            :: left[at] > 1 -> left[at]--
            :: else
            fi;
            at++
        :: else -> break
        od;
        at = 0;
        do
        :: at < 3 * CALLERS -> tick(seen[at]); at++
        :: else -> break
        od;
#ifdef REACH
        if :: need_row[OTHER] == 1 -> by_end = true :: else fi;
#endif
        tick(need_row[OTHER]); tick(need_row[OTHER_BEFORE]); tick(need_row[OWN_BEFORE]);
        tick(mine[0]); tick(mine[1]);
        if :: RENEWS(0) -> tick(certain[0]) :: else fi;
        if :: RENEWS(1) -> tick(certain[1]) :: else fi;
#ifdef FAULT_SEEN_EARLY
        tick(before[0]); tick(before[CALLERS - 1]);
#endif
        skip
    }
    od
}

inline no_call() {
    call = idle;
    caller = 0;
    revision = 0;
    at = 0;
    do :: at < PARTIES -> need[at] = 0; at++ :: else -> break od;
    need_row[OTHER] = 0; need_row[OTHER_BEFORE] = 0; need_row[OWN_BEFORE] = 0;
#ifdef REACH
    by_ack = false; by_end = false;
#endif
    skip
}

/* Nobody will wait any more. */
inline forget() {
    at = 0;
    do
    :: at < 2 * PARTIES -> record[at] = 0; acked[at] = 0; wait_for[at] = 0; at++
    :: else -> break
    od;
    at = 0;
    do
    :: at < 3 * CALLERS ->
        known[at] = false; seen[at] = 0;
#ifdef FAULT_DELETES_RENEWED
        over[at] = false;
#endif
        at++
    :: else -> break
    od;
#ifdef FAULT_SEEN_EARLY
    before[0] = 0; before[CALLERS - 1] = 0;
#endif
    row_ack[0] = 0; row_ack[1] = 0; old[0] = false; old[1] = false; old_ack[0] = 0; old_ack[1] = 0;
    settled[0] = 0; settled[1] = 0; answering[0] = 0; answering[1] = 0;
    revision = 0
}

/* Somebody looks at a row: its renewal is known from then on. */
inline see(c, k, there) {
    if
    :: there && !known[SEEN(c, k)] ->
        known[SEEN(c, k)] = true;
#ifdef FAULT_SEEN_EARLY
        seen[SEEN(c, k)] = before[c]
#else
        seen[SEEN(c, k)] = LONGER
#endif
    :: else
    fi;
    skip
}

/* One snapshot of the rows of all others. */
inline look(c) {
    see(c, OTHER, row[1 - (c)]);
    see(c, OTHER_BEFORE, old[1 - (c)]);
    see(c, OWN_BEFORE, old[c]);
    skip
}

inline unknown(c, k) {
    known[SEEN(c, k)] = false;
    seen[SEEN(c, k)] = 0;
#ifdef FAULT_DELETES_RENEWED
    over[SEEN(c, k)] = false;
#endif
    skip
}

/* The row of s was renewed or written: whoever looked before has not seen that. */
inline renewed(s) {
    if
    :: 1 - (s) < CALLERS && !DONE ->
#ifdef FAULT_ONE_SIGHT
        skip
#else
        known[SEEN(1 - (s), OTHER)] = false;
        seen[SEEN(1 - (s), OTHER)] = 0;
#endif
#ifdef REACH
        if :: call == waiting && caller == 1 - (s) && need_row[OTHER] > 0 -> REACHED(RENEWED_WHILE_AWAITED) :: else fi;
#endif
        skip
    :: else
    fi;
    skip
}

/* The revision up to which nobody who holds a lease of s acts on what was so before. */
inline settle_up_to(s) {
    low = pub[s];
    at = 0;
    do
    :: at < PARTIES ->
        if :: record[AT(s, at)] > 0 && acked[AT(s, at)] < low -> low = acked[AT(s, at)] :: else fi;
        at++
    :: else -> break
    od;
    settled[s] = TAKING(low);
    low = 0
}

/* Rows that are gone, or whose replicas have acknowledged, are not waited for any longer. */
inline wait_rows() {
    if
    :: !row[1 - caller] || SAYS(row_ack[1 - caller]) ->
#ifdef REACH
        if :: need_row[OTHER] > 0 -> by_ack = true :: else fi;
#endif
        need_row[OTHER] = 0
    :: else
    fi;
    if :: !old[1 - caller] || SAYS(old_ack[1 - caller]) -> need_row[OTHER_BEFORE] = 0 :: else fi;
    if :: !old[caller] || SAYS(old_ack[caller]) -> need_row[OWN_BEFORE] = 0 :: else fi;
    skip
}

/* The leases that the call waits for, as they are known now: later renewals do not prolong the wait. */
inline first_look() {
    look(caller);
    need_row[OTHER] = seen[SEEN(caller, OTHER)];
    need_row[OTHER_BEFORE] = seen[SEEN(caller, OTHER_BEFORE)];
    need_row[OWN_BEFORE] = seen[SEEN(caller, OWN_BEFORE)];
    skip
}

proctype Replica(byte s) {
    do
    /* A notification, or a reading for some other reason. */
    :: d_step {
        pub[s] < head -> pub[s] = head
    }

    /* It renews its row. Who finds it deleted writes another one, under a new id (21). */
    :: d_step {
        RENEWS(s) && renewal[s] == idle ->
        if :: !DONE -> settle_up_to(s) :: else fi;
#ifdef FAULT_HEAD_EARLY
        early[s] = head;
#endif
        mine[s] = LEASE;
        renewal[s] = begun
    }
    :: d_step {
        renewal[s] == begun ->
        if
        :: row[s] ->
            if :: !DONE -> row_ack[s] = settled[s] :: else fi;
            renewed(s);
            renewal[s] = written
#ifdef FAULT_ROWLESS
        :: deleted[s] -> renewal[s] = written
#endif
        :: else ->
            mine[s] = LEASE;
#ifdef FAULT_HEAD_EARLY
            early[s] = head;
#endif
            renewal[s] = joining
        fi;
        settled[s] = 0
    }
    :: d_step {
        renewal[s] == joining ->
        row[s] = true;
        row_ack[s] = 0;
        renewed(s);
#ifdef REACH
        thawed[s] = deleted[s];
#endif
        renewal[s] = written
    }
    :: d_step {
        renewal[s] == written ->
#if defined(FAULT_HEAD_UNREAD)
        skip;
#elif defined(FAULT_HEAD_EARLY)
        if :: pub[s] < early[s] -> pub[s] = early[s] :: else fi;
        early[s] = 0;
#else
        if :: pub[s] < head -> REACHED(CAUGHT_UP) :: else fi;
        pub[s] = head;
#endif
#ifdef FAULT_COUNTED_LATE
        certain[s] = LEASE;
#else
        if :: certain[s] < mine[s] -> certain[s] = mine[s] :: else fi;
#endif
        mine[s] = 0;
        renewal[s] = idle
    }

    /* It answers the barrier of the other one. */
    :: d_step {
        call != idle && call != looked && caller != s && row[s] && row_ack[s] < revision && answering[s] < revision ->
#ifndef FAULT_ANSWER_UNPUBLISHED
        if :: pub[s] < revision -> pub[s] = revision :: else fi;
#endif
        at = 0;
        do
        :: at < PARTIES ->
            wait_for[AT(s, at)] = 0;
            if :: acked[AT(s, at)] < revision -> wait_for[AT(s, at)] = record[AT(s, at)] :: else fi;
            at++
        :: else -> break
        od;
        answering[s] = revision
    }
    :: d_step {
        answering[s] > 0 && NOBODY(wait_for, s) ->
        if :: row[s] && row_ack[s] < answering[s] -> row_ack[s] = answering[s] :: else fi;
        answering[s] = 0
    }

    /* It looks at the rows, for this barrier or another one. */
#ifdef FAULT_SEEN_EARLY
    :: d_step { s < CALLERS && !DONE -> before[s] = LONGER }
#endif
    :: d_step {
        s < CALLERS && !DONE && UNSEEN(s) -> look(s)
    }

    /* It deletes rows whose leases are over, unless they were renewed since it looked. */
#ifdef FAULT_DELETES_RENEWED
    :: d_step {
        s < CALLERS && row[1 - s] && known[SEEN(s, OTHER)] && seen[SEEN(s, OTHER)] == 0 -> over[SEEN(s, OTHER)] = true
    }
    :: d_step {
        s < CALLERS && row[1 - s] && over[SEEN(s, OTHER)] ->
#else
    :: d_step {
        s < CALLERS && row[1 - s] && known[SEEN(s, OTHER)] && seen[SEEN(s, OTHER)] == 0 ->
#endif
        row[1 - s] = false; row_ack[1 - s] = 0; unknown(s, OTHER);
#if defined(FAULT_ROWLESS) || defined(REACH)
        deleted[1 - s] = true;
#endif
        if :: caller == s -> need_row[OTHER] = 0 :: else fi;
        skip
    }
    :: d_step {
        s < CALLERS && old[1 - s] && known[SEEN(s, OTHER_BEFORE)] && seen[SEEN(s, OTHER_BEFORE)] == 0 ->
        old[1 - s] = false; old_ack[1 - s] = 0; unknown(s, OTHER_BEFORE);
        if
        :: caller == s -> need_row[OTHER_BEFORE] = 0
        :: else -> need_row[OWN_BEFORE] = 0
        fi;
#if CALLERS > 1
        unknown(1 - s, OWN_BEFORE);
#endif
        skip
    }
    :: d_step {
        s < CALLERS && old[s] && known[SEEN(s, OWN_BEFORE)] && seen[SEEN(s, OWN_BEFORE)] == 0 ->
        old[s] = false; old_ack[s] = 0; unknown(s, OWN_BEFORE);
        if
        :: caller == s -> need_row[OWN_BEFORE] = 0
        :: else -> need_row[OTHER_BEFORE] = 0
        fi;
#if CALLERS > 1
        unknown(1 - s, OTHER_BEFORE);
#endif
        skip
    }

    /* A crash, and a restart under a new id. */
    :: d_step {
        CAN_CRASH(s) && !(row[s] && old[s]) && !DONE ->
        if :: call != idle && caller == s -> no_call() :: else fi;
#ifndef FAULT_OLD_ID
        if
        :: row[s] ->
#ifndef FAULT_CLEANS_UP
            old[s] = true; old_ack[s] = row_ack[s];
            if
            :: 1 - s < CALLERS ->
                known[SEEN(1 - s, OTHER_BEFORE)] = known[SEEN(1 - s, OTHER)];
                seen[SEEN(1 - s, OTHER_BEFORE)] = seen[SEEN(1 - s, OTHER)];
                if :: call != idle && caller == 1 - s -> need_row[OTHER_BEFORE] = need_row[OTHER] :: else fi
            :: else
            fi;
#endif
            row[s] = false; row_ack[s] = 0;
            if
            :: 1 - s < CALLERS ->
                unknown(1 - s, OTHER);
                if :: call != idle && caller == 1 - s -> need_row[OTHER] = 0 :: else fi
            :: else
            fi;
#ifdef REACH
            restarted[s] = true
#endif
        :: else
        fi;
#endif
#if defined(FAULT_ROWLESS) || defined(REACH)
        deleted[s] = false;
#endif
#ifdef REACH
        thawed[s] = false;
#endif
#ifdef FAULT_HEAD_EARLY
        early[s] = 0;
#endif
        pub[s] = head; certain[s] = 0; mine[s] = 0; renewal[s] = idle; settled[s] = 0; answering[s] = 0;
        at = 0;
        do
        :: at < PARTIES ->
            record[AT(s, at)] = 0; acked[AT(s, at)] = 0; wait_for[AT(s, at)] = 0;
            if
            :: stream[at] == s ->
                stream[at] = NOWHERE; ping[at] = none; left[at] = 0; under[at] = 0
            :: else
            fi;
            at++
        :: else -> break
        od;
        if
        :: s < CALLERS -> unknown(s, OTHER); unknown(s, OTHER_BEFORE); unknown(s, OWN_BEFORE); look(s)
        :: else
        fi;
        skip
    }
    od
}

/* Reinstatements, and the call that takes away. */
active proctype Call() {
    byte c;
    do
    :: d_step {
        TAKEN && head < LAST -> head++; gone = false
    }
    :: atomic {
        call == idle ->
        if
        :: c = 0
#if CALLERS > 1
        :: c = 1
#endif
        fi;
        if
#ifdef FAULT_ROWS_EARLY
        :: d_step { !TAKEN && head < LAST -> caller = c; revision = head + 1; first_look(); call = looked }
#else
        :: d_step { !TAKEN && head < LAST -> head++; caller = c; revision = head; call = committed }
#endif
        :: d_step { TAKEN && !gone -> caller = c; revision = head; call = committed }
        :: else
        fi;
        c = 0
    }
#ifdef FAULT_ROWS_EARLY
    :: d_step {
        call == looked && !TAKEN && head < LAST -> head++; call = committed
    }
#endif
    :: d_step {
        call == committed ->
        if :: pub[caller] < revision -> pub[caller] = revision :: else fi;
        at = 0;
        do
        :: at < PARTIES ->
            if :: acked[AT(caller, at)] < revision -> need[at] = record[AT(caller, at)] :: else fi;
            at++
        :: else -> break
        od;
        call = listed
    }
    :: d_step {
        call == listed ->
#if defined(FAULT_OTHERS_NOT_AWAITED)
        skip;
#elif !defined(FAULT_ROWS_EARLY)
        first_look();
        wait_rows();
#endif
        call = waiting
    }
    :: d_step {
        call == waiting && !NO_ROW -> wait_rows()
    }
    :: d_step {
        call == waiting && NOBODY(need, 0) && NO_ROW ->
        gone = (head == revision);
#ifdef INVARIANT
        returned = revision;
        HOLDS(0); HOLDS(PARTIES - 1);
#endif
#ifdef REACH
        if :: by_ack && !by_end -> REACHED(BY_ACKNOWLEDGEMENT) :: else fi;
        if :: by_end && !by_ack -> REACHED(BY_LEASE_OF_REPLICA) :: else fi;
        if :: restarted[caller] && lease[0] > 0 -> REACHED(AFTER_RESTART_OF_CALLER) :: else fi;
        if :: restarted[1 - caller] && lease[0] > 0 -> REACHED(AFTER_RESTART_OF_OTHER) :: else fi;
        if :: revision == LAST && LAST > 2 -> REACHED(TAKEN_TWICE) :: else fi;
#endif
        no_call();
        if :: DONE -> forget() :: else fi;
        skip
    }
    :: d_step {
        call != idle -> no_call()
    }
    od
}

inline acknowledge(s, i) {
    if
    :: acked[AT(s, i)] < TAKING(applied[i]) && !DONE ->
        acked[AT(s, i)] = TAKING(applied[i]);
        if :: applied[i] == LAST -> record[AT(s, i)] = 0 :: else fi;
        if :: call != idle && caller == s && applied[i] >= revision -> need[i] = 0 :: else fi;
        if :: answering[s] > 0 && applied[i] >= answering[s] -> wait_for[AT(s, i)] = 0 :: else fi
    :: else
    fi;
    skip
}

/* It watches s, and goes on where it left off; or begins anew, if s is behind that. */
inline open(i, s) {
    stream[i] = s; ping[i] = none; left[i] = 0; under[i] = 0; answer[i] = 0;
    if
    :: applied[i] <= pub[s] ->
        if :: lease[i] > 0 -> REACHED(ROAMED_WITH_LEASE) :: else fi;
        acknowledge(s, i)
    :: else ->
        REACHED(BEHIND);
        lease[i] = 0; yes[i] = 0;
        applied[i] = pub[s];
        record[AT(0, i)] = 0; acked[AT(0, i)] = 0; wait_for[AT(0, i)] = 0;
        record[AT(1, i)] = 0; acked[AT(1, i)] = 0; wait_for[AT(1, i)] = 0;
        need[i] = 0
    fi;
    skip
}

/* A relying party, and its calls. A call that joins a question while it is late is there whenever `gone`. */
proctype Party(byte i) {
    do
    :: d_step { ROAMS || (HOME + i) % 2 == 0 -> open(i, 0) }
    :: d_step { ROAMS || (HOME + i) % 2 == 1 -> open(i, 1) }
    :: d_step {
        stream[i] != NOWHERE && ping[i] == none -> left[i] = LEASE; ping[i] = sent
    }
    :: d_step {
        ping[i] == sent ->
        if :: acked[AT(stream[i], i)] < LAST && !DONE -> record[AT(stream[i], i)] = LONGER :: else fi;
        ping[i] = received
    }
    :: d_step {
        ping[i] == received && certain[stream[i]] > 0 ->
        under[i] = pub[stream[i]];
#if !defined(FAULT_OUTLASTS) && !defined(FAULT_CERTAIN_LATE)
        if :: certain[stream[i]] < left[i] -> left[i] = certain[stream[i]]; REACHED(SHORTENED) :: else fi;
#endif
        ping[i] = pong
    }
    :: d_step {
        ping[i] == pong && applied[i] >= under[i] ->
#ifdef FAULT_CERTAIN_LATE
        if :: certain[stream[i]] < left[i] -> left[i] = certain[stream[i]] :: else fi;
#endif
        if :: lease[i] < left[i] -> lease[i] = left[i] :: else fi;
#ifdef REACH
        if :: thawed[stream[i]] && lease[i] > 0 -> REACHED(LEASE_AFTER_THAW) :: else fi;
#endif
        HOLDS(i);
        ping[i] = none; left[i] = 0; under[i] = 0
    }
    :: d_step {
        stream[i] != NOWHERE && applied[i] < pub[stream[i]] ->
        applied[i]++;
        if :: yes[i] < applied[i] -> yes[i] = 0 :: else fi;
        if :: answer[i] < applied[i] -> answer[i] = 0 :: else fi;
        skip
    }
    :: d_step {
        stream[i] != NOWHERE && !DONE && acked[AT(stream[i], i)] < TAKING(applied[i]) -> acknowledge(stream[i], i)
    }
    :: d_step {
        answer[i] == 0 && !TAKEN && yes[i] < head -> answer[i] = head
    }
    :: d_step {
        answer[i] > 0 ->
        assert(!(gone && lease[i] > 0));
        if :: lease[i] > 0 -> yes[i] = answer[i] :: else fi;
        answer[i] = 0
    }
    :: d_step {
        gone && lease[i] > 0 && yes[i] > 0 -> assert(false)
    }
#ifdef REACH
    :: d_step {
        lease[i] > 0 && yes[i] > 0 -> REACHED(REMEMBERED)
    }
    :: d_step {
        lease[i] > 0 && gone -> REACHED(LEASE_WHILE_GONE)
    }
#endif
    od
}

init {
    atomic {
        if :: !RENEWS(0) -> certain[0] = LEASE :: else fi;
        run Replica(0); run Replica(1); run Party(0);
#if PARTIES > 1
        run Party(1)
#endif
    }
}
