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
# row in place.
WRITE_ENTRIES = statement(
    "write_entries",
    f"""
    WITH entry AS (
        SELECT * FROM unnest(%(ids)s::uuid[], %(epochs)s::bigint[], %(seqs)s::bigint[], %(counts)s::int[],
                             %(states)s::text[], %(attempts)s::int[], %(pivots)s::boolean[],
                             %(refusals)s::text[], %(answers)s::bytea[], %(delays)s::float8[],
                             %(releases)s::boolean[])
          AS e(id, epoch, seq, count, state, attempts, pivot_intended, refusal, answer, delay, release)
    ), written AS (
        UPDATE saga s
           SET state = e.state, seq = s.seq + e.count, attempts = e.attempts, pivot_intended =
           e.pivot_intended,     refusal = e.refusal::jsonb, update_time = clock_timestamp(),
               next_run = CASE WHEN e.delay IS NULL THEN s.next_run
                               ELSE clock_timestamp() + make_interval(secs => e.delay) END,
               owner = CASE WHEN e.release THEN NULL ELSE s.owner END
          FROM entry e
         WHERE s.id = e.id AND s.epoch = e.epoch AND s.seq = e.seq
        RETURNING s.id
    ), event AS (
        INSERT INTO saga_event ({_EVENT_COLUMNS})
        SELECT {_QUALIFIED} FROM {_EVENTS} JOIN written w ON w.id = v.saga_id
    ), answered AS (
        UPDATE idempotency i SET answer = e.answer
          FROM entry e JOIN written w ON w.id = e.id
         WHERE i.saga_id = e.id AND e.answer IS NOT NULL
    )
    SELECT id FROM written
    """,  # noqa: S608 - put together from constants above
)

ACCEPT = statement(
    "accept",
    f"""
    WITH item AS (
        SELECT * FROM unnest(%(ids)s::uuid[], %(kinds)s::text[], %(versions)s::int[], %(hashes)s::text[],
                             %(keys)s::uuid[], %(contexts)s::text[], %(deadlines)s::float8[],
                             %(counts)s::int[], %(owners)s::text[], %(callers)s::text[], %(rpcs)s::text[],
                             %(idempotency_keys)s::text[], %(request_hashes)s::bytea[])
          AS a(id, kind, version, definition_hash, key, context, deadline, count, owner, caller, rpc,
          idempotency_key,      request_hash)
    ), named AS (
        INSERT INTO idempotency (caller, rpc, key, request_hash, saga_id, expires_at)
        SELECT caller, rpc, idempotency_key, request_hash, id,
               clock_timestamp() + make_interval(secs => %(lifetime)s::float8)
          FROM item
        ON CONFLICT (caller, rpc, key) DO NOTHING
        RETURNING saga_id
    ), begun AS (
        INSERT INTO saga (id, kind, version, definition_hash, key, state, seq, epoch, owner, context,
        deadline) SELECT id, kind, version, definition_hash, key, 'RUNNING', count, 1, owner, context::jsonb,
               clock_timestamp() + make_interval(secs => deadline)
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

_SAGA = """
    id, kind, version, definition_hash, key, state, seq, epoch, owner, context, attempts, pivot_intended,
    refusal, next_run, deadline, create_time, update_time,
    extract(epoch FROM deadline - clock_timestamp())::float8 AS deadline_seconds
"""

GET_SAGA = statement("get_saga", f"SELECT {_SAGA} FROM saga WHERE id = %(id)s::uuid")  # noqa: S608

GET_EVENTS = statement(
    "get_events",
    f"SELECT {_EVENT_COLUMNS}, at FROM saga_event WHERE saga_id = %(id)s::uuid ORDER BY seq",  # noqa: S608
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

LIST_SAGAS = statement(
    "list_sagas",
    f"""
    SELECT {_SAGA} FROM saga
     WHERE (%(state)s::text IS NULL OR state = %(state)s::text)
       AND (%(kind)s::text IS NULL OR kind = %(kind)s::text)
       AND (%(key)s::uuid IS NULL OR key = %(key)s::uuid)
       AND (%(before)s::uuid IS NULL OR id < %(before)s::uuid)
     ORDER BY id DESC LIMIT %(limit)s::int
    """,  # noqa: S608 - put together from constants above
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
           AND (s.owner IS NULL
                OR (s.owner = %(replica)s::text AND s.id <> ALL (%(in_memory)s::uuid[])
                    AND s.update_time < clock_timestamp() - interval '2 seconds')
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
    """,
)
