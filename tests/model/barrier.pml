/* The barrier of docs/revocation.md, for the checker Spin. Numbers in brackets are its rules. test_barrier_model.py
   runs it.

   What is modelled
   - One certificate service. A taking-away is four steps, between which anything may happen: commit, publication,
     taking the list, returning (9, 10). Its caller may leave at any step; asked for again, it waits again (15).
     Reinstatements, and changes of something else, are committed by one step and published by a later one.
   - Crashes, at any time and without limit: records, acknowledgements and streams are gone, the database stays, and
     the barrier is closed for longer than a lease (13).
   - Relying parties: pings and pongs with numbers and revisions (1 to 3), changes applied in one step and
     acknowledged in another (4, 16), changes joined in one message (17), questions and answers on their way, a
     remembered yes, calls that join a question that is there (5, 6, 8). A process is frozen, or a message late, when
     others move on without it.
   - Where ANSWERS=1, a call in progress: allowed by a yes that has just come or is remembered, it runs for as long as
     it likes, and answers any number of times; the look at the lease and the answer are one step (8b). It ends in the
     step in which a change is applied that takes away what it was allowed by, and at a reset: one that is then asked
     about anew, and allowed, is as if it began with that yes.
   - Streams keep order. They break at any time, with what was on them; a new one begins where the last one left off,
     or with a reset. What was sent on the one before may still reach the service (2, 11).
   - Time: the steps of one clock, at which all that is left of leases and waits gets less. It has no end, since only
     what is left is kept. The service waits one tick longer than the lease, which stands for the rates of clocks.

   What is bounded: ticks of a lease, changes, unanswered pings, messages on a stream, streams with messages on their
   way (the last two), questions at a time, and calls in progress (one for each relying party that asks: calls do not
   depend on each other). What is not: time, crashes, streams, pings, questions, calls.

   What is left out
   - Several replicas on one database, two services at once (13), marks and restored backups (parted.pml), row locks
     (14), relying parties that start anew or lose their own right, the grace of calls in progress (8), least revisions
     of questions (17: the service's snapshot is always new enough here), the data of a decision besides one
     certificate.
   - Publication is taken to be in order: who publishes a revision has published all those before. FAULT_GAP breaks
     that.
   - Messages are lost only with their stream, and revisions that are published together are sent as one message.
   - Where there are two relying parties, nothing is left of their last streams and there are no resets (REMAINS=0);
     with ASKING=1 the second one asks nothing. Calls at one relying party do not see what the other one does, which is
     there for the barrier to wait for: what one alone can do wrong is searched with one, and in more detail.

   FAULT_... puts a fault in, which must be found. SPARE_... takes out what the law does not need, as long as the rest
   is there. INVARIANT checks the invariant, too. REACH=n finds a run to the n-th of the things below that must be
   able to happen. The searches, each complete and without an error, with INVARIANT, on one core:

     search             PARTIES ASKING REMAINS LEASE CHANGES OTHERS PINGS UPWARD ANSWERS       states  CPU time  memory
     small                    1      1       1     1       1      1     2      1       0    2,458,105       9 s  0.5 GB
     answering                1      1       1     1       1      1     1      1       1    2,278,660      13 s  0.5 GB
     answering for longer     1      1       1     2       2      0     2      1       1   10,164,792      98 s  1.5 GB
     one taken twice          1      1       1     1       3      0     1      1       1    5,063,675      41 s  0.8 GB
     one among others         1      1       1     1       2      1     1      1       1   15,943,995     179 s  2.3 GB
     one in full              1      1       1     2       2      0     2      2       0   16,891,523      92 s  2.4 GB
     pair                     2      2       0     1       1      0     1      1       0    7,525,305      43 s  1.4 GB
     pair for longer          2      1       0     2       1      0     1      1       0    9,022,704      50 s  1.6 GB

   Those with ANSWERS=1 were measured on a busy machine, where `small` takes 13 to 16 s. `small` and `answering` run
   with each `make test`, the others with `make campaign`. */

/* Relying parties, and how many of them ask questions; the others only hold leases. */
#ifndef PARTIES
#define PARTIES 2
#endif
#ifndef ASKING
#define ASKING 1
#endif
/* Whether messages of an earlier stream may still arrive, and streams may begin with a reset. */
#ifndef REMAINS
#define REMAINS 1
#endif
/* Ticks that a lease lasts. */
#ifndef LEASE
#define LEASE 2
#endif
/* Changes of the certificate, a taking-away and a reinstatement in turn; and changes of something else. */
#ifndef CHANGES
#define CHANGES 2
#endif
#ifndef OTHERS
#define OTHERS 0
#endif
/* Unanswered pings, at most 2; messages on their way up, and down. */
#ifndef PINGS
#define PINGS 2
#endif
#ifndef UPWARD
#define UPWARD 2
#endif
/* Whether calls are in progress, and answer. */
#ifndef ANSWERS
#define ANSWERS 0
#endif
#define DOWNWARD 2

/* How long the service waits. */
#define LONGER (LEASE + 1)

mtype = { start, ping, ack, changed, reset, pong };
mtype = { idle, listed, committed, published, waiting };
mtype = { none, asked, read, answered, arrived };

/* The database, which outlives a crash. Bit n of `takings` is set if revision n took the certificate away. */
byte head = 1;
byte takings;
bool taken;
byte changes_left = CHANGES;
byte others_left = OTHERS;

/* The service's process. `record` is what is left of each lease, `closed` of the wait after a restart. */
byte pub = 1;
byte record[PARTIES];
bool acked[PARTIES];
bool served[PARTIES];
byte sent[PARTIES];
byte closed;

/* The call that takes away: its revision, and what is left of each lease that it waits for. */
mtype call = idle;
byte revision;
byte need[PARTIES];

/* The taking-away has returned, and no reinstatement was committed since: whatever call begins now is late. */
bool gone;

/* The relying parties. `told` is what was last acknowledged on the stream. `left` is what is left, by ping, of the
   lease that its pong will be worth. Numbers are used again once no ping is unanswered. */
byte applied[PARTIES] = 1;
byte told[PARTIES] = 1;
byte lease[PARTIES];
bool live[PARTIES];
byte outstanding[PARTIES];
byte left[2 * PARTIES];
bit oldest[PARTIES];

/* Those of them that ask. `withdrawn` is the position of the last change of what a yes rests on. A remembered yes needs
   no revision: it is clamped to what is applied, so that any such change that comes later ends it. */
byte withdrawn[ASKING];
bool yes[ASKING];
mtype question[ASKING] = none;
byte answer[ASKING];
bool joined[ASKING];

/* Of a call in progress there, the revision of the yes that it was allowed by; 0 if there is none. A remembered yes
   counts as one of what is applied, since whatever comes later and takes away ends both. */
#if ANSWERS
byte permit[ASKING];
#endif

/* Messages: what, the number of a ping or whether the certificate was taken away, and a revision. `earlier` has what is
   left of the stream before. */
chan up[PARTIES] = [UPWARD] of { mtype, byte, byte };
chan earlier[ASKING] = [UPWARD] of { mtype, byte, byte };
chan down[PARTIES] = [DOWNWARD] of { mtype, byte, byte };

hidden mtype kind;
hidden byte number, position, at;

#define SLOT(i, n) (2 * (i) + (n))
#if PARTIES > 1
#define NOBODY_LEFT (need[0] == 0 && need[1] == 0)
#else
#define NOBODY_LEFT (need[0] == 0)
#endif
#define FRESH(i) (answer[i] >= withdrawn[i])
/* Whether a taking-away is among the revisions above `from`, up to `to`. */
#define TAKES(from, to) (((LOG & ((2 << (to)) - 1)) >> ((from) + 1)) != 0)

/* The invariant behind the law. Leases are extended by pongs only, and `applied` never goes back: so it is enough to
   look when a pong arrives and when a call returns. */
#if defined(INVARIANT) || ANSWERS
#define RETURNED
byte returned;
#endif
#ifdef INVARIANT
#define HOLDS(i) assert(lease[i] == 0 || applied[i] >= returned)
#else
#define HOLDS(i) skip
#endif

/* Things that must be able to happen; with -DREACH=n, the n-th of them is reported as an error. */
#ifdef REACH
#define REACHED(what) assert((what) != REACH)
bool restarted, was_gone, by_ack, by_end, renewed, lapsed;
#else
#define REACHED(what) skip
#endif
#define REMEMBERED 1
#define REMEMBERED_WHILE_TAKEN 2
#define REMEMBERED_AFTER_RESTART 3
#define AFTER_REINSTATEMENT 4
#define LEASE_WHILE_GONE 5
#define ALL_ACKNOWLEDGED 6
#define ALL_RAN_OUT 7
#define BOTH_WAYS 8
#define AFTER_RESTART 9
#define TAKEN_TWICE 10
#define RESUMED 11
#define RESET_IN_LEASE 12
#define LATE_PING 13
#define THROWN_AWAY 14
#define LATE_CALL_WAKES 15
#define TWO_PINGS 16
#define ANSWER_AMONG_OTHERS 17
#define ANSWER_AFTER_RENEWAL 18
#define ANSWER_AFTER_LAPSE 19
#define CALL_OUTLIVES_CHANGE 20

#if defined(FAULT_LEASE_FLAG) || defined(FAULT_ANSWER_FLAG)
#define FLAG
bool flag[PARTIES];
#endif
#ifdef FAULT_LEASE_FLAG
#define RUNS(i) flag[i]
#else
#define RUNS(i) (lease[i] > 0)
#endif

#if defined(FAULT_ANSWER_UNGATED)
#define MAY_ANSWER(i) true
#elif defined(FAULT_ANSWER_FLAG)
#define MAY_ANSWER(i) flag[i]
#else
#define MAY_ANSWER(i) RUNS(i)
#endif

#ifdef FAULT_ANSWER_LATER
bool looked[ASKING];
#endif

#ifdef FAULT_CALL_ENDED_LATER
bool ending[ASKING];
#endif

#ifdef FAULT_SHARED_RECORD
#define OWNER(i) 0
#else
#define OWNER(i) (i)
#endif

#ifdef FAULT_GAP
byte logged;
#define LOG logged
#else
#define LOG takings
#endif

#ifdef FAULT_HEAD_FIRST
bool opening[PARTIES];
#endif

inline tick(timer) {
    if :: timer > 0 -> timer-- :: else fi;
    skip
}

inline drain(channel) {
    do :: nempty(channel) -> channel?kind, number, position :: empty(channel) -> break od;
    skip
}

inline no_question(i) {
    question[i] = none;
    answer[i] = 0;
    joined[i] = false
}

#if ANSWERS
inline end_call(i) {
    permit[i] = 0;
#ifdef FAULT_ANSWER_LATER
    looked[i] = false;
#endif
#ifdef FAULT_CALL_ENDED_LATER
    ending[i] = false;
#endif
#ifdef REACH
    renewed = false;
    lapsed = false;
#endif
    skip
}
#endif

/* Freezing, and delay of every kind: nothing else need happen between one tick and the next. */
active proctype Clock() {
    do
    :: d_step {
        true ->
        at = 0;
        do
        :: at < PARTIES ->
#ifdef REACH
            if :: need[at] == 1 -> by_end = true :: else fi;
#if ANSWERS
            if :: lease[at] == 1 && at < ASKING -> lapsed = permit[at] > 0 :: else fi;
#endif
#endif
            tick(lease[at]); tick(record[at]); tick(need[at]); tick(left[SLOT(at, 0)]); tick(left[SLOT(at, 1)]);
            at++
        :: else -> break
        od;
        tick(closed)
    }
    od
}

/* ---- The service ---- */

inline no_call() {
    call = idle;
#ifdef REACH
    by_ack = false;
    by_end = false;
#endif
    at = 0;
    do :: at < PARTIES -> need[at] = 0; at++ :: else -> break od;
    skip
}

/* The leases that the call waits for, less those whose holders have acknowledged already. */
inline take_list() {
    at = 0;
    do
    :: at < PARTIES ->
        if :: call == idle || !acked[at] -> need[at] = record[at] :: else fi;
        at++
    :: else -> break
    od;
    skip
}

inline end_stream(i) {
    live[i] = false;
    served[i] = false;
    sent[i] = 0;
    drain(up[i]);
#ifdef FAULT_HEAD_FIRST
    opening[i] = false;
#endif
    skip
}

active proctype Service() {
    do
    /* Something else is changed; the certificate is reinstated. */
    :: d_step {
        others_left > 0 -> others_left--; head++
    }
    :: d_step {
        taken && changes_left > 0 ->
        changes_left--; head++; taken = false; gone = false;
        at = 0;
        do
        :: at < ASKING -> joined[at] = false; if :: question[at] == arrived -> no_question(at) :: else fi; at++
        :: else -> break
        od;
        skip
    }
    /* Its callers publish all that is committed by then. */
    :: d_step {
        pub < head -> pub = head
    }

    /* A taking-away. */
#ifdef FAULT_LIST_BEFORE_COMMIT
    :: d_step {
        call == idle && !taken && changes_left > 0 -> take_list(); call = listed
    }
#endif
    :: d_step {
#ifdef FAULT_LIST_BEFORE_COMMIT
        call == listed && !taken && changes_left > 0 ->
#else
        call == idle && !taken && changes_left > 0 ->
#endif
        changes_left--; head++; taken = true; takings = takings | (1 << head);
        revision = head;
        at = 0;
        do :: at < PARTIES -> acked[at] = false; at++ :: else -> break od;
        call = committed
    }
    /* It is asked for again: nothing changes, but it waits. */
    :: d_step {
        call == idle && taken && !gone -> call = committed
    }
#ifdef FAULT_LIST_BEFORE_PUBLICATION
    :: d_step {
        call == committed -> take_list(); call = listed
    }
#endif
    :: d_step {
#ifdef FAULT_LIST_BEFORE_PUBLICATION
        call == listed ->
#else
        call == committed ->
#endif
        if :: pub < revision -> pub = revision :: else fi;
#ifdef FAULT_GAP
        logged = logged | (1 << revision);
#endif
        call = published
    }
    :: d_step {
        call == published ->
#if !defined(FAULT_LIST_BEFORE_COMMIT) && !defined(FAULT_LIST_BEFORE_PUBLICATION)
        take_list();
#endif
        call = waiting
    }
    :: d_step {
#ifdef FAULT_REPEAT_RETURNS
        (call == waiting && closed == 0 && NOBODY_LEFT) || (call == idle && taken && !gone) ->
#else
        call == waiting && closed == 0 && NOBODY_LEFT ->
#endif
        gone = taken;
#ifdef RETURNED
        returned = revision;
#endif
        HOLDS(0); HOLDS(PARTIES - 1);
#ifdef REACH
        if :: by_ack && !by_end -> REACHED(ALL_ACKNOWLEDGED) :: else fi;
        if :: by_end && !by_ack -> REACHED(ALL_RAN_OUT) :: else fi;
        if :: by_end && by_ack -> REACHED(BOTH_WAYS) :: else fi;
        if :: restarted && lease[0] > 0 -> REACHED(AFTER_RESTART) :: else fi;
        if :: was_gone && gone && changes_left == 0 -> REACHED(TAKEN_TWICE) :: else fi;
        was_gone = was_gone || gone;
#endif
        no_call()
    }
    /* Whoever called goes away. */
    :: d_step {
        call != idle -> no_call()
    }

    /* A crash, and a restart. While the service is down it is merely slow. */
    :: d_step {
        true ->
        pub = head;
        no_call();
#ifndef FAULT_NO_WAIT
        closed = LONGER;
#endif
#ifdef FAULT_GAP
        logged = takings;
#endif
#ifdef REACH
        restarted = true;
#endif
        number = 0;
        at = 0;
        do
        :: at < PARTIES ->
            record[at] = 0;
            acked[at] = false;
            if :: at < ASKING -> drain(earlier[at]) :: else fi;
            end_stream(at);
            at++
        :: else -> break
        od;
        skip
    }
    od
}

inline acknowledge(i, upto) {
    if
    :: revision > 0 && upto >= revision ->
        acked[OWNER(i)] = true;
        if
        :: call == waiting && need[OWNER(i)] > 0 ->
            need[OWNER(i)] = 0;
#ifdef REACH
            by_ack = true
#endif
        :: else
        fi
    :: else
    fi;
    skip
}

inline push(i) {
    if
    :: sent[i] < pub -> down[i]!changed, TAKES(sent[i], pub), pub; sent[i] = pub
    :: else
    fi;
    skip
}

/* The service's end of a relying party's streams. A stream begins where the relying party left off, or with a reset. */
proctype Serving(byte i) {
    do
    :: d_step {
        up[i]?[start] && len(down[i]) < DOWNWARD ->
        up[i]?kind, number, position;
        acknowledge(i, position);
        if :: lease[i] > 0 -> REACHED(RESUMED) :: else fi;
        sent[i] = position;
#ifdef FAULT_HEAD_FIRST
        opening[i] = true;
#else
        served[i] = true;
#endif
        push(i)
    }
#ifdef FAULT_HEAD_FIRST
    :: d_step {
        opening[i] -> opening[i] = false; served[i] = true; sent[i] = pub
    }
#endif
    :: d_step {
        REMAINS && i < ASKING && up[i]?[start] && len(down[i]) < DOWNWARD ->
        up[i]?kind, number, position;
        acknowledge(i, position);
        served[i] = true;
        sent[i] = pub;
        if :: lease[i] > 0 && position < pub -> REACHED(RESET_IN_LEASE) :: else fi;
        down[i]!reset, 0, pub
    }
    :: d_step {
        served[i] && up[i]?[ping] && len(down[i]) + 2 <= DOWNWARD ->
        up[i]?kind, number, position;
        record[OWNER(i)] = LONGER;
        acknowledge(i, position);
#if defined(FAULT_PONG_EARLY)
        down[i]!pong, number, sent[i]
#elif defined(FAULT_PONG_EARLY_UNCHECKED) || defined(SPARE_PONG_EARLY)
        down[i]!pong, number, pub;
        push(i)
#else
        push(i);
        down[i]!pong, number, pub
#endif
    }
    :: d_step {
        served[i] && up[i]?[ack] -> up[i]?kind, number, position; acknowledge(i, position)
    }
    :: d_step {
        served[i] && sent[i] < pub && len(down[i]) < DOWNWARD -> push(i)
    }
    /* What is left of an earlier stream is heeded; the answers go nowhere. */
    :: d_step {
        i < ASKING && nempty(earlier[i]) ->
        earlier[i]?kind, number, position;
        if :: kind == ping -> record[OWNER(i)] = LONGER; REACHED(LATE_PING) :: else fi;
        acknowledge(i, position)
    }
    /* A stream breaks, and loses what was on it. */
    :: d_step {
        live[i] -> end_stream(i)
#ifdef FAULT_CLOSED_IS_FREE
        ; record[i] = 0
#endif
    }
    :: d_step {
        i < ASKING && nempty(earlier[i]) -> drain(earlier[i])
    }
    od
}

/* ---- The relying parties ---- */

inline no_pings(i) {
    outstanding[i] = 0;
    oldest[i] = 0;
    left[SLOT(i, 0)] = 0;
    left[SLOT(i, 1)] = 0
}

proctype Party(byte i) {
    do
    /* A stream is opened. What comes on the last one is worth nothing, and nor are answers to what was asked on it. */
    :: d_step {
        i >= ASKING || empty(earlier[i]) ->
        do
        :: nempty(up[i]) ->
            up[i]?kind, number, position;
            if :: REMAINS && i < ASKING -> earlier[i]!kind, number, position :: else fi
        :: empty(up[i]) -> break
        od;
        drain(down[i]);
        no_pings(i);
        live[i] = true;
        served[i] = false;
        sent[i] = 0;
#ifdef FAULT_HEAD_FIRST
        opening[i] = false;
#endif
        up[i]!start, 0, applied[i];
        told[i] = applied[i];
#ifndef SPARE_OLD_ANSWER
        if :: i < ASKING -> no_question(i) :: else fi;
#endif
        skip
    }
    :: d_step {
        live[i] && outstanding[i] < PINGS && nfull(up[i]) ->
        number = (oldest[i] + outstanding[i]) % 2;
        left[SLOT(i, number)] = LEASE;
        outstanding[i]++;
        if :: outstanding[i] == 2 && left[SLOT(i, 0)] != left[SLOT(i, 1)] -> REACHED(TWO_PINGS) :: else fi;
        up[i]!ping, number, applied[i];
        told[i] = applied[i]
    }
    :: d_step {
        down[i]?[pong] ->
        down[i]?kind, number, position;
#ifdef FAULT_NO_NUMBER
        at = left[SLOT(i, (oldest[i] + outstanding[i] - 1) % 2)];
#elif defined(FAULT_FROM_RECEIPT)
        at = LEASE;
#else
        at = left[SLOT(i, number)];
#endif
        if
#if defined(FAULT_PONG_EARLY_UNCHECKED) || defined(SPARE_PONG_UNCHECKED)
        :: at > lease[i] ->
#else
        :: at > lease[i] && applied[i] >= position ->
#endif
            lease[i] = at;
#ifdef FLAG
            flag[i] = true;
#endif
#if defined(REACH) && ANSWERS
            if :: i < ASKING -> renewed = permit[i] > 0 :: else fi;
#endif
            HOLDS(i)
        :: else
        fi;
        left[SLOT(i, number)] = 0;
        outstanding[i]--;
        if :: outstanding[i] == 0 -> oldest[i] = 0 :: else -> oldest[i] = 1 - number fi;
        skip
    }
#ifdef FLAG
    :: d_step {
        lease[i] == 0 && flag[i] -> flag[i] = false
    }
#endif
#ifdef FAULT_ACK_FIRST
    :: d_step {
        down[i]?[changed] && live[i] && nfull(up[i]) ->
        down[i]?<kind, number, position>;
        up[i]!ack, 0, position
    }
#endif
    :: d_step {
        down[i]?[changed] || down[i]?[reset] ->
        down[i]?kind, number, position;
        assert(position >= applied[i]);
        if
        :: i < ASKING && (kind == reset || number) ->
            yes[i] = false;
#ifdef FAULT_RESET_ONLY_FORGETS
            if :: kind == changed -> withdrawn[i] = position :: else fi;
#else
            withdrawn[i] = position;
#endif
#if ANSWERS
            if
#ifdef FAULT_RESET_LEAVES_CALLS
            :: kind == reset
#else
            :: kind == reset -> end_call(i)
#endif
#if defined(FAULT_CALL_GOES_ON)
            :: kind == changed && permit[i] < position
#elif defined(FAULT_CALL_ENDED_LATER)
            :: kind == changed && permit[i] < position -> ending[i] = permit[i] > 0
#else
            :: kind == changed && permit[i] < position -> end_call(i)
#endif
            :: else -> REACHED(CALL_OUTLIVES_CHANGE)
            fi;
#endif
            skip
        :: else
        fi;
        applied[i] = position
    }
    :: d_step {
        live[i] && told[i] < applied[i] && nfull(up[i]) ->
        up[i]!ack, 0, applied[i];
        told[i] = applied[i]
    }
    od;
    skip
}

/* Calls at a relying party, and the questions that they share. A late call is there whenever `gone`; the others, of
   which there is no end, matter by what they ask and by what is remembered of it. */
proctype Calls(byte i) {
    do
    :: d_step {
        question[i] == none -> question[i] = asked
    }
    /* The service answers from the database. A no ends the question and is not remembered. */
    :: d_step {
        question[i] == asked ->
        if
        :: taken -> no_question(i)
#ifdef FAULT_DATA_FIRST
        :: else -> question[i] = read
#else
        :: else -> question[i] = answered; answer[i] = head
#endif
        fi;
        skip
    }
#ifdef FAULT_DATA_FIRST
    :: d_step {
        question[i] == read -> question[i] = answered; answer[i] = head
    }
#endif
    /* A yes arrives. Whether it is remembered says nothing of those who wait for it. */
    :: d_step {
        question[i] == answered ->
        if
#if defined(FAULT_LATE_ANSWER)
        :: RUNS(i) ->
#elif defined(SPARE_REMEMBER)
        :: FRESH(i) ->
#else
        :: RUNS(i) && FRESH(i) ->
#endif
            yes[i] = true
        :: else -> REACHED(THROWN_AWAY)
        fi;
        if
        :: joined[i] -> question[i] = arrived
        :: else -> no_question(i)
        fi;
        skip
    }
    /* A late call asks, or joins a question that was asked before. */
    :: d_step {
        gone && !joined[i] && question[i] != none -> joined[i] = true
    }
    /* The law: no late call is allowed, neither by an answer when it wakes, nor by what is remembered. */
    :: d_step {
        question[i] == arrived ->
        REACHED(LATE_CALL_WAKES);
#if defined(FAULT_JOINS_OLD)
        assert(!RUNS(i));
#elif defined(FAULT_LEASE_BEFORE_AWAIT)
        assert(!FRESH(i));
#else
        assert(!(RUNS(i) && FRESH(i)));
#endif
        no_question(i)
    }
    :: d_step {
        gone && RUNS(i) && yes[i] -> assert(false)
    }
#if ANSWERS
    /* A call in progress: it was allowed by an answer when that came, or by what is remembered. */
    :: d_step {
        permit[i] == 0 && question[i] == answered && RUNS(i) && FRESH(i) -> permit[i] = answer[i]
    }
    :: d_step {
        permit[i] == 0 && RUNS(i) && yes[i] -> permit[i] = applied[i]
    }
#ifdef FAULT_CALL_ENDED_LATER
    :: d_step {
        ending[i] -> end_call(i)
    }
#endif
    /* It ends without an answer: aborted (8, 17), or its caller has left. */
    :: d_step {
        permit[i] > 0 -> end_call(i)
    }
    /* It answers, or writes one message of several (8b). The law: nothing is answered by a yes that is older than a
       taking-away that has returned, even if all is as before again. */
#ifdef FAULT_ANSWER_LATER
    :: d_step {
        permit[i] > 0 && MAY_ANSWER(i) && !looked[i] -> looked[i] = true
    }
#endif
    :: d_step {
#ifdef FAULT_ANSWER_LATER
        looked[i] ->
        looked[i] = false;
#else
        permit[i] > 0 && MAY_ANSWER(i) ->
#endif
        if :: applied[i] > permit[i] -> REACHED(ANSWER_AMONG_OTHERS) :: else fi;
#ifdef REACH
        if :: renewed && !lapsed -> REACHED(ANSWER_AFTER_RENEWAL) :: else fi;
        if :: lapsed -> REACHED(ANSWER_AFTER_LAPSE) :: else fi;
#endif
        assert(permit[i] >= returned)
    }
#endif
#ifdef REACH
    :: d_step {
        RUNS(i) && yes[i] ->
        REACHED(REMEMBERED);
        if :: was_gone -> REACHED(AFTER_REINSTATEMENT) :: else fi;
        if :: restarted -> REACHED(REMEMBERED_AFTER_RESTART) :: else fi;
        if :: taken -> REACHED(REMEMBERED_WHILE_TAKEN) :: else fi;
        skip
    }
    :: d_step {
        gone && RUNS(i) -> REACHED(LEASE_WHILE_GONE)
    }
#endif
    od
}

init {
    atomic {
        run Serving(0); run Party(0); run Calls(0);
#if PARTIES > 1
        run Serving(1); run Party(1);
#endif
#if ASKING > 1
        run Calls(1)
#endif
    }
}
