-- What a burst of closes costs the database.

-- Arrays of ids compress badly, and are read once.
ALTER TABLE outbox
    ALTER COLUMN order_ids SET STORAGE EXTERNAL,
    ALTER COLUMN deadlines SET STORAGE EXTERNAL,
    ALTER COLUMN user_ids SET STORAGE EXTERNAL;

-- A product's row is changed by every order. With room on its page the new version stays there, and the index is not touched.
-- Rows that are there already move as they are changed.
ALTER TABLE inventory SET (fillfactor = 50);

-- The triggers, as before but for what they cost a shop that places or pays one order: one plain aggregate instead of a
-- window; nothing when nobody waits anew; and no search_path of their own, which is set and undone at each call. They run with the
-- rights of the schema's owner, so everything in them is qualified instead, operators too: what a caller puts before
-- pg_catalog is never found. (IS DISTINCT FROM and USING would look for an operator.)
DO $make$
DECLARE
    here text := quote_ident(current_schema());
BEGIN
    -- A row holds at most 500 orders: it bounds what the relay reads at once when a shop inserts a million orders.
    EXECUTE replace($$
        CREATE OR REPLACE FUNCTION :schema.overdue_wake_inserted() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER AS $body$
        BEGIN
            INSERT INTO :schema.outbox (kind, order_ids, deadlines)
            SELECT 'wake', order_ids[first:first OPERATOR(pg_catalog.+) 499], deadlines[first:first OPERATOR(pg_catalog.+) 499]
            FROM (SELECT pg_catalog.array_agg(order_id) AS order_ids, pg_catalog.array_agg(payment_deadline) AS deadlines
                  FROM inserted WHERE status OPERATOR(pg_catalog.=) 'PENDING') AS waiting,
                 pg_catalog.generate_series(1, pg_catalog.cardinality(order_ids), 500) AS first;
            RETURN NULL;
        END $body$
    $$, ':schema', here);

    EXECUTE replace($$
        CREATE OR REPLACE FUNCTION :schema.overdue_wake_moved() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER AS $body$
        BEGIN
            -- Paying and closing come by here, too.
            IF EXISTS (SELECT FROM after_update WHERE status OPERATOR(pg_catalog.=) 'PENDING') THEN
                INSERT INTO :schema.outbox (kind, order_ids, deadlines)
                SELECT 'wake', order_ids[first:first OPERATOR(pg_catalog.+) 499],
                       deadlines[first:first OPERATOR(pg_catalog.+) 499]
                FROM (SELECT pg_catalog.array_agg(after.order_id) AS order_ids,
                             pg_catalog.array_agg(after.payment_deadline) AS deadlines
                      FROM after_update AS after
                           LEFT JOIN before_update AS before ON before.order_id OPERATOR(pg_catalog.=) after.order_id
                      WHERE after.status OPERATOR(pg_catalog.=) 'PENDING'
                        AND (before.order_id IS NULL
                             OR before.payment_deadline OPERATOR(pg_catalog.<>) after.payment_deadline
                             OR before.status OPERATOR(pg_catalog.<>) 'PENDING')) AS moved,
                     pg_catalog.generate_series(1, pg_catalog.cardinality(order_ids), 500) AS first;
            END IF;
            RETURN NULL;
        END $body$
    $$, ':schema', here);
END $make$;
