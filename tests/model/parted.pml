/* Histories that part while services run: the database goes back to what it was at some earlier moment, as when a
   standby takes over that was behind. For the checker Spin; numbers in brackets are rules of docs/revocation.md.
   test_parted_model.py runs it. barrier.pml has a single process in detail, replicas.pml two on one database.

   What is modelled
   - The database goes back once, to all that it was at any moment before: its history, and the row of replica 1, which
     may not be there, or be of an earlier renewal. Revisions then have the same numbers again, and other marks.
   - How that is noticed: by a commit, by a renewal that is refused or by the head that is read after it, and by reading
     for another reason. Each may come late, or never. Whoever notices it ends its streams, takes nothing for
     acknowledged that was, forgets which renewals it has seen, and waits a lease longer in each barrier until then.
   - Taking-aways at replica 0: commit, publication with the list of relying parties, a look at the row, the wait, and the
     look whether the change is still there. One that finds nothing to change reads where the history is (15). Callers may
     leave. Reinstatements, and changes of something else, are committed at any time.
   - Replica 1: its renewals (18, 19), and its answers to the barriers of the other, by notification, with a mark, and by
     its row, by number alone (20). Notifications may come late, also when another barrier waits.
   - A relying party: pings, leases, changes, acknowledgements, an answer on its way, a remembered yes. It opens a stream
     at any time, and goes on where it was if the position is of the history that is published there. If not, it begins
     anew, with its lease if the number there is no less than its own, and as another process if it is. Answers have
     numbers and no marks. A yes that was decided ahead of what is applied is forgotten at a new stream, and at the first
     message after the lease was over (6).
   - Time as in the other models. Everything is frozen, or late, when others move on without it.

   When the law holds: if each replica has published all that is lost (HEARD=1); or if the database is away for longer than
   a lease before it comes back (AWAY=1). Without either the checker finds a run that breaks it, and also if each replica
   has published everything and only renewals of rows are lost (ROWS_ONLY=1). docs/revocation.md says so, under 'What is
   not promised'.

   The law says nothing of a taking-away that the database has lost, nor of one that was undone, if the undoing is what was
   lost: a call that asks for it again begins after that. A call may return OK for a change that is lost just then, if its
   replica has not noticed.

   What is bounded: LAST is the highest number of either history, so two are up to 2 * (LAST - 1) revisions; one parting;
   one relying party, with one unanswered ping; ticks of a lease; one taking-away at a time. What is not: time, renewals,
   streams, pings, questions, calls.

   What is left out, since the other models have it, or since it only makes somebody wait longer
   - Crashes, deleted rows and row 0. Rows of earlier ids: the row is written anew, and the old one is not awaited.
   - Pings and pongs on their way. A pong that is late is one that came before, since the lease that it is worth counts from
     the ping; and a ping that is late makes a record that ends later.
   - Messages on a stream that ends as histories part. What was on its way may have arrived before that, or never.
   - Records under the process id that a relying party gave up. Replica 0's own lease, which nobody looks at.
   Where two partings follow each other, the second may come within a lease of the first: that is not modelled.
   A relying party that roams can be reset to a number of the lost history under a lease of the new one, if a replica has
   not noticed yet. So the invariant is about numbers there, and about positions where it stays.

   Constants are below. FAULT_... puts a fault in, which must be found. INVARIANT checks the invariant, too. REACH=n finds a
   run to the n-th of the things below that must be able to happen. The searches, each complete and without an error,
   with INVARIANT, on one core:

   search            HOME ROAMS STEPS TAKEN_FIRST OTHERS LAST LEASE   HEARD: states  time    AWAY: states  time memory
   alone                0     0     1           0      1    3     1         232,537     1 s           230,861     1 s 0.3 GB
   alone for longer     0     0     1           0      1    3     2         571,962     1 s           522,244     1 s 0.3 GB
   alone with more      0     0     1           0      1    4     1       2,442,654     4 s         2,410,560     4 s 0.6 GB
   in few steps         1     0     0           0      1    2     1       1,425,845     3 s         1,234,511     3 s 0.5 GB
   pair                 1     0     1           0      1    2     1       4,673,525    13 s         3,927,636    11 s 0.9 GB
   taken first          1     0     1           1      1    2     1       3,018,494     8 s         2,815,847     7 s 0.7 GB
   more                 1     0     0           0      0    3     1      10,140,832    36 s         9,926,604    34 s 1.5 GB
   roaming              -     1     0           1      1    2     1       9,063,907    33 s         8,351,479    30 s 1.4 GB

   Times are of the processor. `alone` and `in few steps` run with each `make test`, the others with `make campaign`.
   Roaming without TAKEN_FIRST, with HEARD, was searched once: 19,938,386 states, 106 s, 2.8 GB, no error. */

/* Whether all that will be lost is published by each replica; whether the database is away for longer than a lease before
   it comes back; whether it loses only a renewal of the row. */
#ifndef HEARD
#define HEARD 0
#endif
#ifndef AWAY
#define AWAY 0
#endif
#ifndef ROWS_ONLY
#define ROWS_ONLY 0
#endif
/* Whether the relying party roams. If not, it stays at replica HOME. There is no replica 1 if that is 0. */
#ifndef ROAMS
#define ROAMS 0
#endif
#ifndef HOME
#define HOME 1
#endif
/* Whether others move between the beginning of a renewal and its commit. */
#ifndef STEPS
#define STEPS 1
#endif
/* Whether the certificate is taken away in the beginning, by a call that has returned. */
#ifndef TAKEN_FIRST
#define TAKEN_FIRST 0
#endif
/* Changes of something else, and the highest number. */
#ifndef OTHERS
#define OTHERS 1
#endif
#ifndef LAST
#define LAST 2
#endif
/* Ticks that a lease lasts. */
#ifndef LEASE
#define LEASE 1
#endif

/* How long others wait. */
#define LONGER (LEASE + 1)
#define NOWHERE 2
/* A position is a number and a mark; this stands for the marks of the history after the database went back. */
#define NEW 8

mtype = { idle, begun, written };
mtype = { committed, listed, waiting, ready };

/* The database: its position, the revisions that took the certificate away, by history, and the last of them unless it
   was given back since. */
byte head = 1;
byte takes[2];
byte last_take = TAKEN_FIRST;
bool back;

/* The row of replica 1, if any; whether it is the one of its present id; and what it acknowledges, a number. */
bool row;
bool own;
byte row_ack;

/* The backup: as the database was at some moment. `fork` is its position. */
byte fork;
byte fork_take;
bool fork_row;
bool fork_own;
byte fork_ack;
/* Whether the row was not renewed since. */
bool same;

/* The replicas: what each has published. `record` and `acked`, a number, are of the relying party. */
byte pub[2] = 1;
byte record[2];
byte acked[2];

/* Replica 1: its renewal, what it says by it, its lease, and the answer that it is about to give, or that is on its way. */
mtype renewal = idle;
byte said_head;
byte settled;
byte certain;
byte mine;
byte answering;
byte wait_for;

/* Replica 0: whether it has seen the row's last renewal, what is left of the wait since it saw that first, and what is left
   of the wait for replicas whose row is lost. */
bool known;
byte seen;
byte extra;

/* The call that takes away: its position; whether it found nothing to change, at less than what is published; whether
   replica 1 has answered, and a reinstatement was committed since; and what is left of the leases that it waits for. */
mtype call = idle;
byte revision;
bool behind;
bool heard;
bool restored;
byte need;
byte need_row;

/* A taking-away has returned that the database has, and no reinstatement was committed since: whatever call begins now
   is late. */
bool gone = TAKEN_FIRST;

/* The relying party. An answer on its way, and a remembered yes, are kept as numbers. `ahead` is the number of the
   decision that is remembered, as long as that is not applied. */
byte stream = NOWHERE;
byte left;
byte lease;
byte applied = 1;
byte answer;
byte yes;
byte ahead;

#define NUM(p) ((p) % NEW)
#define IS_NEW(p) ((p) >= NEW)
/* Whether the database has it. */
#define STORED(p) (!back || IS_NEW(p) || (p) <= fork)
/* Whether position p is the position q, or one before that in the same history. */
#define WITHIN(p, q) (IS_NEW(p) == IS_NEW(q) && (p) <= (q) || IS_NEW(q) && (p) <= fork)
#define TAKES(p) ((takes[(p) / NEW] >> NUM(p)) % 2 == 1)
/* The next position of the history that goes to q, by number. */
#define NEXT(p, q) (NUM(p) + 1 + (IS_NEW(q) && NUM(p) + 1 > fork -> NEW : 0))
#define TAKEN (last_take > 0)

#if defined(INVARIANT) || defined(REACH)
#define IS_FRESH(value) fresh = value
#else
#define IS_FRESH(value) skip
#endif
/* The invariant behind the law: while the lease runs, what is applied includes all that has returned, and is of the
   database's history if the call that returned began after the parting. */
#ifdef INVARIANT
byte returned;
bool returned_new, fresh;
#if ROAMS
#define HOLDS assert(lease == 0 || NUM(returned) <= NUM(applied))
#else
#define HOLDS assert(lease == 0 || returned == 0 || (WITHIN(returned, applied) && (!returned_new || STORED(applied))))
#endif
#else
#define HOLDS skip
#endif

/* Things that must be able to happen; with -DREACH=n, the n-th of them is reported as an error. */
#ifdef REACH
#define REACHED(what) assert((what) != REACH)
bool waited_longer;
#ifndef INVARIANT
bool fresh;
#endif
#else
#define REACHED(what) skip
#endif
#define PARTED_BY_COMMIT 1
#define PARTED_BY_RENEWAL 2
#define PARTED_BY_READING 3
#define RESUMED 4
#define RESET_IN_LEASE 5
#define HISTORY_LOST 6
#define LEASE_IN_NEW_HISTORY 7
#define WAITED_LONGER 8
#define TOLD_THAT_IT_IS_LOST 9
#define BY_NOTIFICATION 10
#define BY_ROW 11
#define SAME_NUMBER_TAKES_AWAY 12
#define GONE_IN_NEW_HISTORY 13
#define REMEMBERED_IN_NEW_HISTORY 14
#define SURVIVES 15
#define REPEATED_AFTER_LOSS 16

inline tick(timer) {
    if :: timer > 0 -> timer-- :: else fi;
    skip
}

active proctype Clock() {
    do
    :: d_step {
        true ->
        tick(record[0]); tick(record[1]); tick(lease); tick(need); tick(wait_for); tick(seen);
        tick(need_row); tick(certain); tick(mine); tick(extra); tick(left)
    }
    od
}

inline no_call() {
    call = idle; revision = 0; behind = false; heard = false; restored = false; need = 0; need_row = 0;
    IS_FRESH(false);
#ifdef REACH
    waited_longer = false;
#endif
    skip
}

inline end_stream() {
    stream = NOWHERE; left = 0
}

/* The database does not know what s has published: from here on it follows what there is. */
inline part(s) {
    pub[s] = head;
#ifndef FAULT_KEEPS_ACKNOWLEDGEMENTS
    acked[s] = 0;
#endif
#ifndef FAULT_STREAMS_GO_ON
    if :: stream == s -> end_stream() :: else fi;
#endif
#ifndef FAULT_WAITS_NO_LONGER
    if
    :: (s) == 0 -> known = false; seen = 0; extra = LONGER
    :: else
    fi;
#endif
    skip
}

/* s reads the history, and publishes what is there. */
inline read(s, how) {
    if
    :: STORED(pub[s]) -> pub[s] = head
    :: else -> REACHED(how); part(s)
    fi;
    skip
}

/* The row was written or renewed: replica 0 has not seen that. */
inline renewed() {
    same = false; known = false; seen = 0
}

inline look() {
    if
    :: row && !known -> known = true; seen = LONGER
    :: else
    fi;
    skip
}

inline wait_row() {
    if
    :: heard ->
        if :: need_row > 0 && back -> REACHED(BY_NOTIFICATION) :: else fi;
        need_row = 0
    :: row && row_ack >= NUM(revision) ->
        if :: need_row > 0 && back -> REACHED(BY_ROW) :: else fi;
        need_row = 0
    :: else
    fi;
    skip
}

/* A replica reads the history when it is told of something, or is in doubt. */
active proctype Reading() {
    do
    :: d_step { pub[0] != head -> read(0, PARTED_BY_READING) }
#if HOME == 1 || ROAMS
    :: d_step { pub[1] != head -> read(1, PARTED_BY_READING) }
#endif
    od
}

#if HOME == 1 || ROAMS
active proctype Replica() {
    do
    /* It renews its row. */
#if STEPS
    :: d_step {
        renewal == idle ->
        settled = NUM(pub[1]);
        if :: record[1] > 0 && acked[1] < settled -> settled = acked[1] :: else fi;
        said_head = pub[1];
        mine = LEASE;
        renewal = begun
    }
    :: d_step {
        renewal == begun ->
#else
    :: d_step {
        renewal == idle ->
        settled = NUM(pub[1]);
        if :: record[1] > 0 && acked[1] < settled -> settled = acked[1] :: else fi;
        said_head = pub[1];
        mine = LEASE;
#endif
        if
#ifdef FAULT_RENEWED_UNKNOWN
        :: row && own ->
#else
        :: row && own && STORED(said_head) ->
#endif
            row_ack = settled;
            renewed();
            renewal = written
        :: else ->
            mine = LEASE;
            row = true; own = true; fork_own = false; row_ack = 0;
            renewed();
            renewal = written
        fi;
        settled = 0; said_head = 0
    }
    :: d_step {
        renewal == written ->
#ifdef FAULT_HEAD_BELOW_IS_KNOWN
        if :: !WITHIN(head, pub[1]) -> read(1, PARTED_BY_RENEWAL) :: else fi;
#else
        read(1, PARTED_BY_RENEWAL);
#endif
        if :: certain < mine -> certain = mine :: else fi;
        mine = 0;
        renewal = idle
    }

    /* It answers the barrier of replica 0. */
    :: d_step {
        (call == listed || call == waiting) && !heard && answering != revision ->
#ifdef FAULT_ANSWERS_BY_NUMBER
        if :: NUM(pub[1]) < NUM(revision) -> read(1, PARTED_BY_READING) :: else fi;
        if
        :: NUM(pub[1]) >= NUM(revision) ->
#else
        if :: !WITHIN(revision, pub[1]) -> read(1, PARTED_BY_READING) :: else fi;
        if
        :: WITHIN(revision, pub[1]) ->
#endif
            wait_for = 0;
            if :: acked[1] < NUM(revision) -> wait_for = record[1] :: else fi;
            answering = revision
        :: else
        fi;
        skip
    }
    :: d_step {
        answering > 0 && wait_for == 0 ->
        if
#ifdef FAULT_ANSWERS_BY_NUMBER
        :: NUM(answering) == NUM(revision) && (call == listed || call == waiting) -> heard = true
#else
        :: answering == revision && (call == listed || call == waiting) -> heard = true
#endif
        :: else
        fi;
        answering = 0
    }
    od
}
#endif

/* The backup is made, and the database goes back to it, once. */
active proctype Database() {
    d_step {
        fork = head; fork_take = last_take; fork_row = row; fork_own = own; fork_ack = row_ack; same = true
    }
    d_step {
#if HEARD
        fork < head && pub[0] == head && (pub[1] == head || HOME == 0 && !ROAMS) ->
#elif ROWS_ONLY
        fork == head && pub[0] == head && pub[1] == head ->
#else
        true ->
#endif
#if AWAY
        /* Nobody reads or writes for longer than a lease. What else happens meanwhile may happen before. */
        record[0] = 0; record[1] = 0; lease = 0; need = 0; wait_for = 0; seen = 0; need_row = 0;
        certain = 0; mine = 0; left = 0;
#endif
        if :: last_take != fork_take -> gone = false :: else fi;
#ifdef INVARIANT
        if :: returned > fork -> returned = 0 :: else fi;
#endif
        back = true;
        head = fork; last_take = fork_take;
        /* Replica 0 may have seen that renewal long ago, and not since. */
        if
        :: !same -> known = false; seen = 0
        :: !same -> known = true; seen = 0
        :: else
        fi;
        row = fork_row; own = fork_own; row_ack = fork_ack;
        if
        :: !row -> known = false; seen = 0
        :: else
        fi;
        same = false;
        fork_take = 0; fork_row = false; fork_own = false; fork_ack = 0
    }
}

inline advance() {
    head = NUM(head) + 1 + (back -> NEW : 0)
}

/* Changes, and the call that takes away, at replica 0. */
active proctype Call() {
    do
    :: d_step {
        NUM(head) < LAST && TAKEN -> advance(); last_take = 0; gone = false;
        if :: call != idle -> restored = true :: else fi
    }
#if OTHERS
    :: d_step {
        NUM(head) < LAST -> advance()
    }
#endif
    :: d_step {
        call == idle && NUM(head) < LAST && !TAKEN ->
        advance();
        takes[head / NEW] = takes[head / NEW] | (1 << NUM(head));
        last_take = head;
        revision = head; IS_FRESH(back);
        call = committed
    }
    :: d_step {
        call == idle && TAKEN && !gone ->
        revision = head; IS_FRESH(back);
#ifndef FAULT_REPEAT_LOOKS_NOT_BACK
        behind = NUM(pub[0]) > NUM(head);
#endif
        call = committed
    }
    :: d_step {
        call == committed ->
        if
        :: behind || !WITHIN(revision, pub[0]) -> read(0, PARTED_BY_COMMIT)
        :: else
        fi;
        behind = false;
        if
        :: WITHIN(revision, pub[0]) ->
            if :: acked[0] < NUM(revision) -> need = record[0] :: else fi;
            call = listed
        :: else ->
            REACHED(TOLD_THAT_IT_IS_LOST);
            no_call()
        fi;
        skip
    }
    :: d_step {
        call == listed ->
        look();
        need_row = (row -> seen : 0);
        wait_row();
        call = waiting
    }
    :: d_step {
        call == waiting && need_row > 0 -> look(); wait_row()
    }
    :: d_step {
        call == waiting && need_row == 0 && extra == 0 -> heard = false; call = ready
    }
#ifdef REACH
    :: d_step {
        call == waiting && need_row == 0 && extra > 0 && fresh -> waited_longer = true
    }
#endif
    :: d_step {
        call == ready && need == 0 ->
#ifdef FAULT_LOOKS_NOT_AGAIN
        assert(WITHIN(revision, pub[0]));
#endif
        if
        :: WITHIN(revision, pub[0]) ->
            gone = STORED(revision) && TAKEN && !restored;
#ifdef INVARIANT
            if :: STORED(revision) -> returned = revision; returned_new = fresh; HOLDS :: else fi;
#endif
#ifdef REACH
            if :: gone && waited_longer -> REACHED(WAITED_LONGER) :: else fi;
            if :: gone && back && !fresh -> REACHED(SURVIVES) :: else fi;
            if :: gone && fresh && !IS_NEW(revision) -> REACHED(REPEATED_AFTER_LOSS) :: else fi;
#endif
            skip
        :: else -> REACHED(TOLD_THAT_IT_IS_LOST)
        fi;
        no_call()
    }
    :: d_step {
        call != idle -> no_call()
    }
    od
}

inline acknowledge(s) {
    if
    :: acked[s] < NUM(applied) ->
        acked[s] = NUM(applied);
        if :: (s) == 0 && call != idle && acked[s] >= NUM(revision) -> need = 0 :: else fi;
        if :: (s) == 1 && answering > 0 && acked[s] >= NUM(answering) -> wait_for = 0 :: else fi
    :: else
    fi;
    skip
}

/* What was decided at a revision that is not applied may be of another history from here on. */
inline forget_ahead() {
#ifndef FAULT_AHEAD_REMEMBERED
    if :: ahead > 0 -> yes = 0 :: else fi;
#endif
    ahead = 0
}

/* It watches s, and goes on where it left off if that is of the same history; or begins anew. */
inline open(s) {
    end_stream();
    stream = s; answer = 0;
    if :: NUM(applied) > NUM(pub[s]) -> read(s, PARTED_BY_READING) :: else fi;
    stream = s;
    if
#ifdef FAULT_RESUMES_BY_NUMBER
    :: NUM(applied) <= NUM(pub[s]) ->
#else
    :: WITHIN(applied, pub[s]) ->
#endif
        if :: back && lease > 0 && STORED(pub[s]) -> REACHED(RESUMED) :: else fi;
        forget_ahead();
        acknowledge(s)
    :: else ->
        if
        :: NUM(applied) > NUM(pub[s]) ->
            REACHED(HISTORY_LOST);
#ifndef FAULT_LEASE_KEPT
            lease = 0;
#endif
            record[0] = 0; record[1] = 0; acked[0] = 0; acked[1] = 0; need = 0; wait_for = 0;
#ifndef FAULT_YES_KEPT
            yes = 0; ahead = 0;
#endif
            applied = pub[s]
        :: else ->
            if :: lease > 0 -> REACHED(RESET_IN_LEASE) :: else fi;
            yes = 0; ahead = 0;
            applied = pub[s];
            acknowledge(s)
        fi
    fi;
    HOLDS
}

/* The relying party, and its calls. A call that joins a question while it is late is there whenever `gone`. */
active proctype Party() {
    do
#if ROAMS || HOME == 0
    :: d_step { true -> open(0) }
#endif
#if ROAMS || HOME == 1
    :: d_step { true -> open(1) }
#endif
    :: d_step {
        stream != NOWHERE && left == 0 -> left = LEASE; record[stream] = LONGER
    }
    :: d_step {
        left > 0 && (stream == 0 || certain > 0) && NUM(applied) >= NUM(pub[stream]) ->
#ifndef FAULT_AHEAD_OVER_LEASES
        if :: lease == 0 -> answer = 0; forget_ahead() :: else fi;
#endif
        if :: stream == 1 && certain < left -> left = certain :: else fi;
        if :: lease < left -> lease = left :: else fi;
        if :: lease > 0 && IS_NEW(applied) -> REACHED(LEASE_IN_NEW_HISTORY) :: else fi;
        HOLDS;
        left = 0
    }
    :: d_step {
        stream != NOWHERE && NUM(applied) < NUM(pub[stream]) ->
#ifndef FAULT_AHEAD_OVER_LEASES
        if :: lease == 0 -> answer = 0; forget_ahead() :: else fi;
#endif
        applied = NEXT(applied, pub[stream]);
        if
        :: TAKES(applied) ->
            if :: yes < NUM(applied) -> yes = 0; ahead = 0 :: else fi;
            if :: answer < NUM(applied) -> answer = 0 :: else fi
        :: else
        fi;
        if :: ahead <= NUM(applied) -> ahead = 0 :: else fi;
        skip
    }
    :: d_step {
        stream != NOWHERE && acked[stream] < NUM(applied) -> acknowledge(stream)
    }
    :: d_step {
        answer == 0 && yes == 0 && !TAKEN && NUM(head) >= NUM(applied) -> answer = NUM(head)
    }
    :: d_step {
        answer > 0 ->
        assert(!(gone && lease > 0));
        if
        :: lease > 0 && answer > NUM(applied) -> yes = NUM(applied); ahead = answer
        :: lease > 0 && answer <= NUM(applied) -> yes = answer; ahead = 0
        :: else
        fi;
        answer = 0
    }
    :: d_step {
        gone && lease > 0 && yes > 0 -> assert(false)
    }
#ifdef REACH
    :: d_step {
        lease > 0 && yes > 0 && IS_NEW(applied) -> REACHED(REMEMBERED_IN_NEW_HISTORY)
    }
    :: d_step {
        lease > 0 && gone && IS_NEW(last_take) -> REACHED(GONE_IN_NEW_HISTORY)
    }
    :: d_step {
        lease > 0 && yes > 0 && !STORED(applied) && IS_NEW(head) && TAKES(head) && NUM(applied) == NUM(head) ->
        REACHED(SAME_NUMBER_TAKES_AWAY)
    }
#endif
    od
}
