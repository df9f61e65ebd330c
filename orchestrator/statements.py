"""The SQL of the saga log, by name. Writes of a running saga say which epoch and sequence they expect."""

from __future__ import annotations

from chassis.postgres import statement

_EVENTS = """
    unnest(%(event_sagas)s::uuid[], %(event_seqs)s::bigint[], %(event_steps)s::text[], %(event_ops)s::text[],
           %(event_attempts)s::int[], %(event_outcomes)s::text[], %(event_details)s::text[],
           %(event_recorded)s::boolean[], %(event_requests)s::bytea[], %(event_replies)s::bytea[])
      AS v(saga_id, seq, step, op, attempt, outcome, detail, recorded, request, reply)
"""
_EVENT_COLUMNS = "saga_id, seq, step, op, attempt, outcome, detail, recorded, request, reply"
_QUALIFIED = ", ".join(f"v.{name.strip()}" for name in _EVENT_COLUMNS.split(","))

# A delay of NULL leaves next_run alone: most writes then touch no indexed column, and PostgreSQL updates the
# row in place. A saga that ends gives its order to the one that waits longest, in the same transaction. One
# that is withdrawn while it waits has no order to give: its holder still has it.
WRITE_ENTRIES = statement(
    "write_entries",
    f"""
    WITH entry AS (
        SELECT * FROM unnest(%(ids)s::uuid[], %(epochs)s::bigint[], %(seqs)s::bigint[], %(counts)s::int[],
                             %(states)s::text[], %(attempts)s::int[], %(pivots)s::boolean[],
                             %(refusals)s::text[], %(answers)s::bytea[], %(deadlines)s::float8[],
                             %(delays)s::float8[], %(releases)s::boolean[], %(steps)s::text[],
                             %(waits)s::text[], %(fingerprints)s::text[], %(errors)s::text[])
          AS e(id, epoch, seq, count, state, attempts, pivot_intended, refusal, answer, deadline, delay,
               release, step, waiting_for, fingerprint, last_error)
    ), written AS (
        UPDATE saga s
           SET state = e.state, seq = s.seq + e.count, attempts = e.attempts,
               pivot_intended = e.pivot_intended, refusal = coalesce(e.refusal::jsonb, s.refusal),
               update_time = clock_timestamp(), step = e.step, waiting_for = e.waiting_for,
               error_fingerprint = e.fingerprint, last_error = e.last_error,
               deadline = CASE WHEN e.deadline IS NULL THEN s.deadline
                               ELSE clock_timestamp() + make_interval(secs => e.deadline) END,
               next_run = CASE WHEN e.delay IS NULL THEN s.next_run
                               ELSE clock_timestamp() + make_interval(secs => e.delay) END,
               owner = CASE WHEN e.release THEN NULL ELSE s.owner END
          FROM entry e
         WHERE s.id = e.id AND s.epoch = e.epoch AND s.seq = e.seq
        RETURNING s.id, s.key, s.state
    ), event AS (
        INSERT INTO saga_event ({_EVENT_COLUMNS})
        SELECT {_QUALIFIED} FROM {_EVENTS} JOIN written w ON w.id = v.saga_id
    ), answered AS (
        UPDATE idempotency i SET answer = e.answer
          FROM entry e JOIN written w ON w.id = e.id
         WHERE i.saga_id = e.id AND e.answer IS NOT NULL
    ), started AS (
        UPDATE saga s
           SET state = 'RUNNING', next_run = clock_timestamp(), update_time = clock_timestamp()
          FROM written w
         WHERE w.state IN ('COMPLETED', 'COMPENSATED') AND s.state = 'WAITING'
           AND s.id = (SELECT f.id FROM saga f WHERE f.key = w.key AND f.state = 'WAITING' AND f.id <> w.id
                          AND NOT EXISTS (SELECT 1 FROM written x WHERE x.id = f.id)
                          AND NOT EXISTS (SELECT 1 FROM saga h WHERE h.key = w.key AND h.id <> w.id
                                AND h.state IN ('RUNNING', 'COMPENSATING', 'PAUSED', 'PARKED'))
                        ORDER BY f.create_time, f.id LIMIT 1)
        RETURNING s.id
    )
    SELECT id, (SELECT count(*) FROM started)::int AS started FROM written
    """,  # noqa: S608 - put together from constants above
)

ACCEPT = statement(
    "accept",
    f"""
    WITH item AS (
        SELECT * FROM unnest(%(ids)s::uuid[], %(kinds)s::text[], %(versions)s::int[], %(hashes)s::text[],
                             %(keys)s::uuid[], %(contexts)s::text[], %(deadlines)s::float8[],
                             %(counts)s::int[], %(owners)s::text[], %(callers)s::text[], %(rpcs)s::text[],
                             %(idempotency_keys)s::text[], %(request_hashes)s::bytea[],
                             %(steps)s::text[], %(pivots)s::boolean[], %(traces)s::text[],
                             %(request_ids)s::text[])
          AS a(id, kind, version, definition_hash, key, context, deadline, count, owner, caller, rpc,
               idempotency_key, request_hash, step, pivot_intended, traceparent, request_id)
    ), named AS (
        INSERT INTO idempotency (caller, rpc, key, request_hash, saga_id, expires_at)
        SELECT caller, rpc, idempotency_key, request_hash, id,
               clock_timestamp() + make_interval(secs => %(lifetime)s::float8)
          FROM item
        ON CONFLICT (caller, rpc, key) DO NOTHING
        RETURNING saga_id
    ), begun AS (
        INSERT INTO saga (id, kind, version, definition_hash, key, state, seq, epoch, owner, context,
                          deadline, step, pivot_intended, traceparent, request_id)
        SELECT id, kind, version, definition_hash, key, 'RUNNING', count, 1, owner, context::jsonb,
               clock_timestamp() + make_interval(secs => deadline), step, pivot_intended, traceparent,
               request_id
          FROM item JOIN named ON named.saga_id = item.id
    ), event AS (
        INSERT INTO saga_event ({_EVENT_COLUMNS})
        SELECT {_QUALIFIED} FROM {_EVENTS} JOIN named n ON n.saga_id = v.saga_id
    )
    SELECT saga_id FROM named
    """,  # noqa: S608 - put together from constants above
)

FIND_KEY = statement(
    "find_key",
    """
    SELECT saga_id, request_hash, answer FROM idempotency
     WHERE caller = %(caller)s::text AND rpc = %(rpc)s::text AND key = %(key)s::text
    """,
)

# --- beginning a saga on an order that others may be working on, in one transaction ---

LOCK_ORDER = statement(
    "lock_order", "SELECT pg_advisory_xact_lock(hashtextextended('order ' || %(key)s::text, 0))"
)

_HOLDER = """
    SELECT id, kind, state, pivot_intended, context FROM saga
     WHERE key = %(key)s::uuid AND state IN ('RUNNING', 'COMPENSATING', 'PAUSED', 'PARKED')
"""
FIND_HOLDER = statement("find_holder", _HOLDER)
# Whoever ends meanwhile is waited for, and is no holder then.
LOCK_HOLDER = statement("lock_holder", f"{_HOLDER} FOR UPDATE")

FIND_WAITING = statement(
    "find_waiting", "SELECT id FROM saga WHERE key = %(key)s::uuid AND state = 'WAITING' LIMIT %(limit)s::int"
)

NAME_SAGA = statement(
    "name_saga",
    """
    INSERT INTO idempotency (caller, rpc, key, request_hash, saga_id, expires_at)
    VALUES (%(caller)s::text, %(rpc)s::text, %(key)s::text, %(request_hash)s::bytea, %(saga_id)s::uuid,
            clock_timestamp() + make_interval(secs => %(lifetime)s::float8))
    ON CONFLICT (caller, rpc, key) DO NOTHING
    RETURNING saga_id
    """,
)

# Without events: the first step is intended when it is driven, which may be much later.
BEGIN_BEHIND = statement(
    "begin_behind",
    """
    INSERT INTO saga (id, kind, version, definition_hash, key, state, seq, epoch, owner, context, deadline,
                      traceparent, request_id)
    VALUES (%(id)s::uuid, %(kind)s::text, %(version)s::int, %(definition_hash)s::text, %(key)s::uuid,
            %(state)s::text, 0, 1, %(owner)s::text, %(context)s::jsonb,
            clock_timestamp() + make_interval(secs => %(deadline)s::float8), %(traceparent)s::text,
            %(request_id)s::text)
    """,
)

# Where the saga that ended did not see the one that began to wait in the same moment, nobody started it.
START_WAITING = statement(
    "start_waiting",
    """
    UPDATE saga SET state = 'RUNNING', next_run = clock_timestamp(), update_time = clock_timestamp()
     WHERE state = 'WAITING' AND id IN (
        SELECT DISTINCT ON (w.key) w.id FROM saga w
         WHERE w.state = 'WAITING'
           AND NOT EXISTS (SELECT 1 FROM saga h WHERE h.key = w.key
                              AND h.state IN ('RUNNING', 'COMPENSATING', 'PAUSED', 'PARKED'))
         ORDER BY w.key, w.create_time, w.id LIMIT %(limit)s::int)
    """,
)

# --- outside verbs ---

# One row's lock decides between a cancel and the pivot: the pivot's intent is a write to the same row.
COMMAND = statement(
    "command",
    """
    WITH taken AS (
        UPDATE saga
           SET state = CASE WHEN %(verb)s::text = 'pause' THEN 'PAUSED' WHEN state = 'WAITING' THEN state
                            WHEN refusal IS NULL THEN 'RUNNING' ELSE 'COMPENSATING' END,
               epoch = epoch + 1, seq = seq + 1, attempts = 0, waiting_for = '',
               owner = CASE WHEN %(verb)s::text = 'pause' THEN NULL ELSE %(owner)s::text END,
               next_run = clock_timestamp(), update_time = clock_timestamp()
         WHERE id = %(id)s::uuid AND state = ANY (%(states)s::text[])
           AND (NOT %(before_pivot)s::boolean OR (NOT pivot_intended AND refusal IS NULL))
           AND (%(sequence)s::bigint IS NULL OR seq = %(sequence)s::bigint)
        RETURNING id, seq, epoch
    ), event AS (
        INSERT INTO saga_event (saga_id, seq, step, op, attempt, outcome, detail, recorded, reply, actor,
                                reason)
        SELECT id, seq, %(step)s::text, %(verb)s::text, 0, %(outcome)s::text, %(detail)s::text, false,
               %(reply)s::bytea, %(actor)s::text, %(reason)s::text
          FROM taken
    )
    SELECT epoch FROM taken
    """,
)

POSTPONE = statement(
    "postpone",
    """
    UPDATE saga SET owner = NULL, epoch = epoch + 1, attempts = attempts + 1,
                    next_run = clock_timestamp() + make_interval(secs => %(seconds)s::float8)
     WHERE id = %(id)s::uuid AND epoch = %(epoch)s::bigint AND owner = %(replica)s::text
       AND state IN ('RUNNING', 'COMPENSATING')
    """,
)

# A ramp: the rate begins at %(rate)s a second and doubles each second, so the n-th is due after
# log2(1 + n ln 2 / rate) seconds.
WAKE = statement(
    "wake",
    """
    WITH locked AS (
        SELECT id, create_time FROM saga
         WHERE waiting_for = %(participant)s::text AND waiting_for <> ''
           AND state IN ('RUNNING', 'COMPENSATING') AND owner IS NULL
         ORDER BY create_time, id LIMIT %(limit)s::int
         FOR UPDATE SKIP LOCKED
    ), held AS (
        SELECT id, row_number() OVER (ORDER BY create_time, id) - 1 AS n FROM locked
    )
    UPDATE saga s
       SET next_run = least(s.next_run, clock_timestamp()
                            + make_interval(secs => ln(1 + held.n * ln(2.0::float8) / %(rate)s::float8)
                                                    / ln(2.0::float8)))
      FROM held WHERE s.id = held.id AND s.owner IS NULL
    """,
)

# --- reading ---

_SAGA = """
    id, kind, version, definition_hash, key, state, seq, epoch, owner, context, attempts, pivot_intended,
    refusal, next_run, deadline, create_time, update_time, step, waiting_for, error_fingerprint, last_error,
    traceparent, request_id,
    extract(epoch FROM deadline - clock_timestamp())::float8 AS deadline_seconds,
    extract(epoch FROM clock_timestamp() - create_time)::float8 AS age_seconds
"""

GET_SAGA = statement("get_saga", f"SELECT {_SAGA} FROM saga WHERE id = %(id)s::uuid")  # noqa: S608

GET_EVENTS = statement(
    "get_events",
    f"SELECT {_EVENT_COLUMNS}, actor, reason, at FROM saga_event"  # noqa: S608
    " WHERE saga_id = %(id)s::uuid ORDER BY seq",
)

GET_FENCE = statement(
    "get_fence",
    """
    SELECT s.epoch, s.seq, v.step, v.op, v.attempt, v.outcome
      FROM saga s JOIN saga_event v ON v.saga_id = s.id AND v.seq = s.seq
     WHERE s.id = %(id)s::uuid
    """,
)

GET_STANDING = statement(
    "get_standing",
    """
    SELECT s.state, s.key, i.answer, s.refusal
      FROM saga s LEFT JOIN idempotency i ON i.saga_id = s.id WHERE s.id = %(id)s::uuid
    """,
)

RENEW_REPLICA = statement(
    "renew_replica",
    """
    INSERT INTO replica (id, expires_at)
    VALUES (%(id)s::text, clock_timestamp() + make_interval(secs => %(lease)s::float8))
    ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at
    """,
)

REMOVE_REPLICA = statement(
    "remove_replica",
    """
    WITH gone AS (DELETE FROM replica WHERE id = %(id)s::text)
    UPDATE saga SET owner = NULL, epoch = epoch + 1
     WHERE owner = %(id)s::text AND state IN ('RUNNING', 'COMPENSATING')
    """,
)

REMOVE_EXPIRED_REPLICAS = statement(
    "remove_expired_replicas",
    """
    DELETE FROM replica r
     WHERE r.expires_at < clock_timestamp() - make_interval(secs => %(lease)s::float8 * 10)
       AND NOT EXISTS (SELECT 1 FROM saga s WHERE s.owner = r.id AND s.state IN ('RUNNING', 'COMPENSATING'))
    """,
)

# Ours only where nothing was written for a while: one that was accepted since the list was made is not lost.
# Whose they are: nobody's, those of a replica whose lease ran out, or ours although we do not have them in
# memory (an accept whose commit was cut, a task that died).
_CLAIM = """
    UPDATE saga SET owner = %(replica)s::text, epoch = epoch + 1
     WHERE id IN (
        SELECT s.id FROM saga s
         WHERE s.state IN ('RUNNING', 'COMPENSATING') AND s.next_run <= clock_timestamp()
           AND (%(drives)s::text[] IS NULL
                OR s.kind || ' ' || s.version || ' ' || s.definition_hash = ANY (%(drives)s::text[])
                OR greatest(s.next_run, s.update_time)
                   < clock_timestamp() - make_interval(secs => %(strange)s::float8))
           AND (s.owner IS NULL
                OR (s.owner = %(replica)s::text AND s.id <> ALL (%(in_memory)s::uuid[])
                    AND s.update_time < clock_timestamp() - make_interval(secs => %(grace)s::float8))
                OR (s.owner <> %(replica)s::text AND NOT EXISTS (
                        SELECT 1 FROM replica r WHERE r.id = s.owner AND r.expires_at > clock_timestamp())))
         ORDER BY s.next_run {direction} LIMIT %(limit)s::int
         FOR UPDATE SKIP LOCKED)
    RETURNING id
"""
CLAIM_OLDEST = statement("claim_oldest", _CLAIM.format(direction="ASC"))
CLAIM_NEWEST = statement("claim_newest", _CLAIM.format(direction="DESC"))

PRUNE_KEYS = statement(
    "prune_keys",
    """
    DELETE FROM idempotency WHERE (caller, rpc, key) IN (
        SELECT caller, rpc, key FROM idempotency
         WHERE expires_at < clock_timestamp() AND answer IS NOT NULL ORDER BY expires_at LIMIT %(limit)s::int)
    RETURNING saga_id
    """,
)

# Both tables in one statement: a saga is in the journal or in the archive, never in both or in none. Ids are
# UUIDv7, so the oldest come first by the primary key; the bound is a sub-select, which is computed once, so
# that the index is asked for it.
_COLUMNS = """
    id, kind, version, definition_hash, key, state, seq, epoch, owner, context, deadline, next_run, attempts,
    pivot_intended, refusal, create_time, update_time, step, waiting_for, error_fingerprint, last_error,
    traceparent, request_id
"""
_ALL_EVENT_COLUMNS = f"{_EVENT_COLUMNS}, at, actor, reason"
ARCHIVE = statement(
    "archive",
    f"""
    WITH old AS (
        SELECT id FROM saga
         WHERE id < (SELECT (lpad(to_hex(((extract(epoch FROM clock_timestamp()) - %(age)s::float8)
                                          * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid)
           AND state IN ('COMPLETED', 'COMPENSATED')
           AND update_time < clock_timestamp() - make_interval(secs => %(age)s::float8)
         ORDER BY id LIMIT %(limit)s::int FOR UPDATE SKIP LOCKED
    ), moved AS (
        DELETE FROM saga WHERE id IN (SELECT id FROM old) RETURNING {_COLUMNS}
    ), moved_events AS (
        DELETE FROM saga_event WHERE saga_id IN (SELECT id FROM old) RETURNING {_ALL_EVENT_COLUMNS}
    ), kept AS (
        INSERT INTO saga_archive ({_COLUMNS}) SELECT {_COLUMNS} FROM moved
    ), kept_events AS (
        INSERT INTO saga_event_archive ({_ALL_EVENT_COLUMNS}) SELECT {_ALL_EVENT_COLUMNS} FROM moved_events
    )
    SELECT count(*)::int AS archived FROM moved
    """,  # noqa: S608 - put together from constants above
)

# What the gauges show; finished sagas are not looked at.
CENSUS = statement(
    "census",
    """
    SELECT state, count(*)::int AS sagas,
           extract(epoch FROM clock_timestamp() - min(create_time))::float8 AS oldest_seconds,
           extract(epoch FROM clock_timestamp() - min(update_time))::float8 AS stillest_seconds,
           count(*) FILTER (WHERE deadline < clock_timestamp())::int AS overdue
      FROM saga WHERE state = ANY ('{RUNNING,COMPENSATING,WAITING,PAUSED,PARKED}'::text[])
     GROUP BY state
    """,
)
