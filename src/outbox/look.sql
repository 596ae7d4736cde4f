-- The oldest rows of one kind ($1: wakes, else events) past the mark: at most $2 rows and, but for the last of them, $3 orders.
-- Always at least one row, so that the snapshot is known where nothing was found. $7 asks for the last id that was drawn, if it may
-- be known.
--
-- The mark is the id $4, or the lowest of the positions $6 whose transaction $5 has ended: a transaction that was still at work
-- when the mark passed its ids may have left rows behind it. One statement, so that the rows of a transaction that ends now are
-- either seen here or cause a look from its position next time.
SELECT CASE WHEN coalesce(before, 0) = 0 THEN pg_catalog.pg_current_snapshot()::text END AS "snapshot?",
       CASE WHEN $7::boolean THEN (
           SELECT CASE WHEN pg_catalog.has_sequence_privilege(ids, 'SELECT') THEN pg_catalog.pg_sequence_last_value(ids) END
           FROM (SELECT pg_catalog.pg_get_serial_sequence('outbox', 'id')::regclass AS ids) AS outbox_ids) END AS "drawn?",
       pg_catalog.clock_timestamp() AS "now!", id AS "id?", kind AS "kind?", recorded_at AS "recorded_at?",
       order_ids AS "order_ids?", deadlines AS "deadlines?", user_ids AS "user_ids?"
FROM (SELECT) AS always
LEFT JOIN (
    SELECT id, kind, before,
           -- A row that cannot be read must not keep the reader from the others: one dimension, counted from 1, no NULL, sane times.
           -- A CHECK would be paid for by every order that is placed.
           CASE WHEN readable THEN recorded_at END AS recorded_at, CASE WHEN readable THEN order_ids END AS order_ids,
           CASE WHEN readable THEN deadlines END AS deadlines, CASE WHEN readable THEN user_ids END AS user_ids
    FROM (SELECT oldest.*,
                 pg_catalog.sum(pg_catalog.cardinality(order_ids)) OVER (ORDER BY id) - pg_catalog.cardinality(order_ids) AS before,
                 coalesce(
                     pg_catalog.octet_length(kind) <= 255
                     AND pg_catalog.array_ndims(order_ids) = 1 AND pg_catalog.array_lower(order_ids, 1) = 1
                     AND pg_catalog.array_position(order_ids, NULL) IS NULL
                     AND pg_catalog.array_ndims(deadlines) = 1 AND pg_catalog.array_lower(deadlines, 1) = 1
                     AND pg_catalog.array_position(deadlines, NULL) IS NULL
                     AND timestamptz '2000-01-01 00:00:00+00' <= ALL (deadlines)
                     AND timestamptz '3000-01-01 00:00:00+00' > ALL (deadlines)
                     AND recorded_at >= timestamptz '2000-01-01 00:00:00+00'
                     AND recorded_at < timestamptz '3000-01-01 00:00:00+00'
                     AND (user_ids IS NULL
                          OR (pg_catalog.array_ndims(user_ids) = 1 AND pg_catalog.array_lower(user_ids, 1) = 1
                              AND pg_catalog.array_position(user_ids, NULL) IS NULL)), false) AS readable
          FROM (SELECT * FROM outbox
                WHERE is_wake = $1
                  AND id > (SELECT least($4::bigint, pg_catalog.min(position))
                            FROM unnest($5::bigint[], $6::bigint[]) AS seen (transaction, position)
                            WHERE pg_catalog.pg_visible_in_snapshot(
                                transaction::text::xid8, pg_catalog.pg_current_snapshot()))
                ORDER BY id LIMIT $2) AS oldest) AS counted
    WHERE before < $3
) AS rows ON true
ORDER BY id
