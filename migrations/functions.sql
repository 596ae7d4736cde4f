-- The functions, applied by `overdue migrate` after the migrations; idempotent, and without a lock that anybody waits for.
-- `:schema` is the schema as an identifier, `:name` the same as a string. The bodies name the schema, because whoever calls them
-- may have any search_path.
--
-- Everything is qualified, operators too: what a caller puts before pg_catalog is never found. (IS DISTINCT FROM, USING
-- and IN would look for an operator; EXCEPT and GROUP BY take the type's own.) The trigger functions run with the rights of the
-- schema's owner, so that a shop needs none on the outbox. Nobody may execute a function of ours without a grant: a definer's
-- code that runs on a caller's types runs the caller's code.
--
-- A schema that was renamed or copied keeps bodies that name the old one. A trigger function refuses to work for any other
-- schema than its own, until `overdue migrate` has repaired it.

CREATE OR REPLACE FUNCTION :schema.overdue_orders_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $body$
BEGIN
    IF TG_TABLE_SCHEMA OPERATOR(pg_catalog.<>) :name THEN
        RAISE EXCEPTION 'schema % has the functions of schema %: run `overdue migrate`', TG_TABLE_SCHEMA, :name
            USING ERRCODE = 'OVD03';
    END IF;
    -- What shops do: one order, or a few. Cheaper than the general way, and paid for by everyone who places an order.
    INSERT INTO :schema.outbox (kind, order_ids, deadlines)
    SELECT 'wake', pg_catalog.array_agg(order_id), pg_catalog.array_agg(payment_deadline)
    FROM (SELECT order_id, payment_deadline FROM inserted WHERE status OPERATOR(pg_catalog.=) 'PENDING' LIMIT 501) AS few
    HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>=) 1 AND pg_catalog.count(*) OPERATOR(pg_catalog.<=) 500;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    -- A row holds at most 500 orders: it bounds what the relay reads at once when a shop inserts a million orders.
    INSERT INTO :schema.outbox (kind, order_ids, deadlines)
    SELECT 'wake', order_ids[first:first OPERATOR(pg_catalog.+) 499], deadlines[first:first OPERATOR(pg_catalog.+) 499]
    FROM (SELECT pg_catalog.array_agg(order_id) AS order_ids, pg_catalog.array_agg(payment_deadline) AS deadlines
          FROM inserted WHERE status OPERATOR(pg_catalog.=) 'PENDING') AS waiting,
         pg_catalog.generate_series(1, pg_catalog.cardinality(order_ids), 500) AS first;
    RETURN NULL;
END $body$;

CREATE OR REPLACE FUNCTION :schema.overdue_orders_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $body$
DECLARE
    some_pending boolean;
    some_cancelled boolean;
    all_closed boolean;
    revived bigint;
BEGIN
    IF TG_TABLE_SCHEMA OPERATOR(pg_catalog.<>) :name THEN
        RAISE EXCEPTION 'schema % has the functions of schema %: run `overdue migrate`', TG_TABLE_SCHEMA, :name
            USING ERRCODE = 'OVD03';
    END IF;
    -- Paying and closing come by here too, and need nothing more than this one look.
    SELECT pg_catalog.bool_or(status OPERATOR(pg_catalog.=) 'PENDING'), pg_catalog.bool_or(status OPERATOR(pg_catalog.=) 'CANCELLED'),
           coalesce(pg_catalog.bool_and(status OPERATOR(pg_catalog.=) 'CLOSED'), true)
    INTO some_pending, some_cancelled, all_closed FROM after_update;
    -- A trigger of the shop's that takes back a close in the close's own transaction: its stock and its event would stand.
    IF NOT all_closed
       AND EXISTS (SELECT FROM before_update WHERE closed_at OPERATOR(pg_catalog.=) pg_catalog.now()) THEN
        SELECT pg_catalog.min(order_id) INTO revived
        FROM (SELECT order_id FROM before_update WHERE closed_at OPERATOR(pg_catalog.=) pg_catalog.now()
              EXCEPT
              SELECT order_id FROM after_update WHERE status OPERATOR(pg_catalog.=) 'CLOSED') AS changed;
        IF revived IS NOT NULL THEN
            RAISE EXCEPTION 'a trigger takes back the close of order % in the same transaction', revived
                USING ERRCODE = 'OVD02', TABLE = 'orders';
        END IF;
    END IF;
    -- A moved deadline needs a wake; the old wake finds the order not due and is harmless. EXCEPT is linear under any
    -- plan, where a join planned for one row is quadratic for many.
    IF some_pending THEN
        INSERT INTO :schema.outbox (kind, order_ids, deadlines)
        SELECT 'wake', order_ids[first:first OPERATOR(pg_catalog.+) 499], deadlines[first:first OPERATOR(pg_catalog.+) 499]
        FROM (SELECT pg_catalog.array_agg(order_id) AS order_ids, pg_catalog.array_agg(payment_deadline) AS deadlines
              FROM (SELECT order_id, payment_deadline FROM after_update WHERE status OPERATOR(pg_catalog.=) 'PENDING'
                    EXCEPT
                    SELECT order_id, payment_deadline FROM before_update WHERE status OPERATOR(pg_catalog.=) 'PENDING') AS moved
             ) AS waiting,
             pg_catalog.generate_series(1, pg_catalog.cardinality(order_ids), 500) AS first;
    END IF;
    -- However an order is cancelled, by a shop's plain SQL too, its event is recorded here and nowhere else.
    IF some_cancelled THEN
        -- The relay publishes what it sees at once, so the cancellation must be on the disk when others see it, whatever
        -- the shop's session or a default says.
        IF pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off' THEN
            PERFORM pg_catalog.set_config('synchronous_commit', 'on', true);
        END IF;
        INSERT INTO :schema.outbox (kind, order_ids, deadlines, user_ids)
        SELECT 'order.cancelled', order_ids[first:first OPERATOR(pg_catalog.+) 499],
               deadlines[first:first OPERATOR(pg_catalog.+) 499], user_ids[first:first OPERATOR(pg_catalog.+) 499]
        FROM (SELECT pg_catalog.array_agg(order_id) AS order_ids, pg_catalog.array_agg(payment_deadline) AS deadlines,
                     pg_catalog.array_agg(user_id) AS user_ids
              FROM (SELECT order_id, pg_catalog.max(payment_deadline) AS payment_deadline, pg_catalog.max(user_id) AS user_id
                    FROM (SELECT order_id, payment_deadline, user_id, true AS now_so FROM after_update
                          WHERE status OPERATOR(pg_catalog.=) 'CANCELLED'
                          UNION ALL
                          SELECT order_id, NULL, NULL, false FROM before_update
                          WHERE status OPERATOR(pg_catalog.=) 'CANCELLED') AS both_sides
                    GROUP BY order_id HAVING pg_catalog.bool_and(now_so)) AS fresh
             ) AS cancelled,
             pg_catalog.generate_series(1, pg_catalog.cardinality(order_ids), 500) AS first;
    END IF;
    RETURN NULL;
END $body$;

-- An item is changed only under its order's lock, so that a close and an edit never see half of each other. NO KEY UPDATE:
-- a weaker lock would pass under a plain UPDATE of the status that is not committed yet. An order that does not exist is left to
-- the foreign key's error. Once the order holds no stock any more, its items are history: they can be deleted, not changed.
CREATE OR REPLACE FUNCTION :schema.overdue_items_guarded() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $body$
DECLARE
    -- Of a move, the order that takes no edit. Types are looked for in the caller's temporary schema first: only keywords and
    -- qualified names are safe here.
    found_order bigint;
    found_status pg_catalog.text;
BEGIN
    IF TG_TABLE_SCHEMA OPERATOR(pg_catalog.<>) :name THEN
        RAISE EXCEPTION 'schema % has the functions of schema %: run `overdue migrate`', TG_TABLE_SCHEMA, :name
            USING ERRCODE = 'OVD03';
    END IF;
    -- INSERT first: every order that is placed comes by here, once for each of its items.
    IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
        SELECT status INTO found_status FROM :schema.orders WHERE order_id OPERATOR(pg_catalog.=) NEW.order_id
        FOR NO KEY UPDATE;
    ELSIF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
        PERFORM FROM :schema.orders WHERE order_id OPERATOR(pg_catalog.=) OLD.order_id FOR NO KEY UPDATE;
        RETURN OLD;
    ELSIF OLD.order_id OPERATOR(pg_catalog.<>) NEW.order_id THEN
        -- Both orders, the lower id first, as everybody who locks several does.
        FOR found_order, found_status IN
            SELECT order_id, status FROM :schema.orders
            WHERE order_id OPERATOR(pg_catalog.=) OLD.order_id OR order_id OPERATOR(pg_catalog.=) NEW.order_id
            ORDER BY order_id FOR NO KEY UPDATE
        LOOP
            EXIT WHEN found_status OPERATOR(pg_catalog.=) ANY ('{CLOSED,CANCELLED}');
        END LOOP;
    ELSE
        SELECT status INTO found_status FROM :schema.orders WHERE order_id OPERATOR(pg_catalog.=) NEW.order_id
        FOR NO KEY UPDATE;
    END IF;
    IF found_status OPERATOR(pg_catalog.=) ANY ('{CLOSED,CANCELLED}') THEN
        RAISE EXCEPTION 'the order is %: its items cannot be changed any more (order %)', found_status,
            coalesce(found_order, NEW.order_id)
            USING ERRCODE = 'check_violation', CONSTRAINT = 'order_items_of_open_order', TABLE = 'order_items',
                  HINT = 'Its stock was given back. Place a new order.';
    END IF;
    RETURN NEW;
END $body$;

-- Gives back the items of orders that the caller has locked, and returns the number of products. VOLATILE on purpose: its
-- statements then see what was committed until now, where the calling statement sees only what was committed when it began.
-- An item that was added in between would be missed, and its stock lost; and a product that another batch has changed in
-- between would have to be looked up again.
CREATE OR REPLACE FUNCTION :schema.overdue_give_back(orders bigint[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT AS $body$
DECLARE
    looks boolean;
    item record;
    products bigint[];
    quantities bigint[];
    all_products bigint := 0;
    given_back bigint := 0;
BEGIN
    -- Items that this transaction's snapshot or a policy hides would be missed, and their stock lost.
    IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' THEN
        RAISE EXCEPTION 'stock cannot be given back in a transaction that is %', pg_catalog.current_setting('transaction_isolation')
            USING ERRCODE = 'OVD04', HINT = 'BEGIN ISOLATION LEVEL READ COMMITTED: an older snapshot may miss items.';
    END IF;
    IF pg_catalog.row_security_active(:items::pg_catalog.regclass) THEN
        RAISE EXCEPTION 'row security hides items from the role %: their stock would not be given back', current_user
            USING ERRCODE = 'OVD01', HINT = 'Give the role BYPASSRLS, or call this as a role that sees all items.';
    END IF;
    -- Products are locked in their order, so that two batches with the same ones wait for each other and never deadlock. NO KEY:
    -- an order that is being placed holds a key-share lock on its products, which must neither wait for us nor we for it.
    -- Only a BEFORE trigger keeps the old stock in a row that counts as updated. Where neither the table nor a partition can have
    -- one, other batches do not wait for a look at each row.
    looks := EXISTS (SELECT FROM pg_catalog.pg_trigger
                     WHERE tgrelid OPERATOR(pg_catalog.=) :inventory::pg_catalog.regclass AND NOT tgisinternal)
             OR EXISTS (SELECT FROM pg_catalog.pg_inherits
                        WHERE inhparent OPERATOR(pg_catalog.=) :inventory::pg_catalog.regclass);
    IF pg_catalog.cardinality(orders) OPERATOR(pg_catalog.=) 1 AND pg_catalog.array_ndims(orders) OPERATOR(pg_catalog.=) 1
       AND NOT looks THEN
        -- One order, as it is mostly in a steady stream: sums, arrays and ANY took a quarter of the closing statement's time.
        FOR item IN SELECT i.product_id, i.quantity FROM :schema.order_items AS i
                    WHERE i.order_id OPERATOR(pg_catalog.=) orders[pg_catalog.array_lower(orders, 1)] ORDER BY i.product_id
        LOOP
            UPDATE :schema.inventory SET stock = stock OPERATOR(pg_catalog.+) item.quantity
            WHERE product_id OPERATOR(pg_catalog.=) item.product_id;
            IF FOUND THEN
                given_back := given_back OPERATOR(pg_catalog.+) 1;
            END IF;
            all_products := all_products OPERATOR(pg_catalog.+) 1;
        END LOOP;
    ELSE
        SELECT pg_catalog.array_agg(sums.product_id), pg_catalog.array_agg(sums.quantity) INTO products, quantities
        FROM (SELECT i.product_id, pg_catalog.sum(i.quantity)::pg_catalog.int8 AS quantity
              FROM :schema.order_items AS i WHERE i.order_id OPERATOR(pg_catalog.=) ANY (orders)
              GROUP BY i.product_id ORDER BY i.product_id) AS sums;
        all_products := coalesce(pg_catalog.cardinality(products), 0);
        IF looks THEN
            WITH locked AS MATERIALIZED (
                SELECT inventory.product_id, items.quantity, inventory.stock OPERATOR(pg_catalog.+) items.quantity AS expected
                FROM :schema.inventory JOIN unnest(products, quantities) AS items (product_id, quantity)
                     ON inventory.product_id OPERATOR(pg_catalog.=) items.product_id
                ORDER BY inventory.product_id
                FOR NO KEY UPDATE OF inventory
            ), changed AS (
                UPDATE :schema.inventory
                SET stock = stock OPERATOR(pg_catalog.+) locked.quantity
                FROM locked
                WHERE inventory.product_id OPERATOR(pg_catalog.=) locked.product_id
                RETURNING inventory.stock OPERATOR(pg_catalog.>=) locked.expected AS has_all
            )
            SELECT pg_catalog.count(*) INTO given_back FROM changed WHERE has_all;
        ELSIF all_products OPERATOR(pg_catalog.<=) 8 THEN
            -- One by one, in their order. Where a shop has some thousand products, the statement below reads all of them, twice.
            FOR place IN 1 .. all_products LOOP
                UPDATE :schema.inventory SET stock = stock OPERATOR(pg_catalog.+) quantities[place]
                WHERE product_id OPERATOR(pg_catalog.=) products[place];
                IF FOUND THEN
                    given_back := given_back OPERATOR(pg_catalog.+) 1;
                END IF;
            END LOOP;
        ELSE
            WITH locked AS MATERIALIZED (
                SELECT inventory.product_id, items.quantity
                FROM :schema.inventory JOIN unnest(products, quantities) AS items (product_id, quantity)
                     ON inventory.product_id OPERATOR(pg_catalog.=) items.product_id
                ORDER BY inventory.product_id
                FOR NO KEY UPDATE OF inventory
            )
            UPDATE :schema.inventory
            SET stock = stock OPERATOR(pg_catalog.+) locked.quantity
            FROM locked
            WHERE inventory.product_id OPERATOR(pg_catalog.=) locked.product_id;
            GET DIAGNOSTICS given_back = ROW_COUNT;
        END IF;
    END IF;
    -- A trigger that returns NULL or keeps the old stock, or a policy that hides rows: a close without its stock must not stand.
    IF given_back OPERATOR(pg_catalog.<>) all_products THEN
        RAISE EXCEPTION 'the stock of % products would be given back, not of all %: a trigger or a policy on inventory keeps the rest',
            given_back, all_products USING ERRCODE = 'OVD01';
    END IF;
    RETURN given_back;
END $body$;

-- For shops: each call is one statement that happens whole or not at all, with the caller's own rights.

-- Places an order that can be paid for `pay_within` from now, and takes its items from stock. Returns its number.
CREATE OR REPLACE FUNCTION :schema.overdue_place(
    user_id bigint, pay_within interval, product_ids bigint[], quantities bigint[],
    whose pg_catalog.regclass DEFAULT :inventory::pg_catalog.regclass) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    placed bigint;
    line record;
    there bigint;
BEGIN
    -- The default follows the table when the schema is renamed; this body does not, and would act on another shop's orders.
    IF coalesce(whose OPERATOR(pg_catalog.<>) pg_catalog.to_regclass(:inventory), true) THEN
        RAISE EXCEPTION 'this function was made for the schema %: run `overdue migrate` for the schema it is in', :name
            USING ERRCODE = 'OVD03';
    END IF;
    INSERT INTO :schema.orders (user_id, payment_deadline)
    VALUES (overdue_place.user_id, pg_catalog.now() OPERATOR(pg_catalog.+) overdue_place.pay_within)
    RETURNING orders.order_id INTO placed;
    INSERT INTO :schema.order_items (order_id, product_id, quantity)
    SELECT placed, items.product_id, items.quantity
    FROM unnest(overdue_place.product_ids, overdue_place.quantities) AS items (product_id, quantity);
    -- In product order, as everybody who locks several products does.
    FOR line IN SELECT i.product_id, i.quantity FROM :schema.order_items AS i
                WHERE i.order_id OPERATOR(pg_catalog.=) placed ORDER BY i.product_id
    LOOP
        UPDATE :schema.inventory SET stock = stock OPERATOR(pg_catalog.-) line.quantity
        WHERE inventory.product_id OPERATOR(pg_catalog.=) line.product_id
          AND stock OPERATOR(pg_catalog.>=) line.quantity;
        IF NOT FOUND THEN
            SELECT stock INTO there FROM :schema.inventory WHERE inventory.product_id OPERATOR(pg_catalog.=) line.product_id;
            RAISE EXCEPTION 'product % has % in stock, and % were ordered', line.product_id, there, line.quantity
                USING ERRCODE = 'check_violation', CONSTRAINT = 'inventory_stock_not_negative', TABLE = 'inventory';
        END IF;
    END LOOP;
    RETURN placed;
END $body$;

-- Cancels a PENDING order and gives its items back; false, with nothing changed, when the order is not PENDING (any more).
CREATE OR REPLACE FUNCTION :schema.overdue_cancel(order_id bigint,
    whose pg_catalog.regclass DEFAULT :inventory::pg_catalog.regclass) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    became pg_catalog.text;
BEGIN
    -- The default follows the table when the schema is renamed; this body does not, and would act on another shop's orders.
    IF coalesce(whose OPERATOR(pg_catalog.<>) pg_catalog.to_regclass(:inventory), true) THEN
        RAISE EXCEPTION 'this function was made for the schema %: run `overdue migrate` for the schema it is in', :name
            USING ERRCODE = 'OVD03';
    END IF;
    UPDATE :schema.orders SET status = 'CANCELLED', updated_at = pg_catalog.now()
    WHERE orders.order_id OPERATOR(pg_catalog.=) overdue_cancel.order_id AND status OPERATOR(pg_catalog.=) 'PENDING'
    RETURNING status INTO became;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF became OPERATOR(pg_catalog.<>) 'CANCELLED' THEN
        RAISE EXCEPTION 'a trigger made order % %, not CANCELLED', overdue_cancel.order_id, became USING ERRCODE = 'OVD02';
    END IF;
    PERFORM :schema.overdue_give_back(ARRAY[overdue_cancel.order_id]);
    -- A trigger that runs after the UPDATE may have taken the cancellation back.
    SELECT status INTO became FROM :schema.orders WHERE orders.order_id OPERATOR(pg_catalog.=) overdue_cancel.order_id;
    IF became OPERATOR(pg_catalog.<>) 'CANCELLED' THEN
        RAISE EXCEPTION 'a trigger made order % %, not CANCELLED', overdue_cancel.order_id, became USING ERRCODE = 'OVD02';
    END IF;
    RETURN true;
END $body$;

-- Makes the quantity of a product in a PENDING order what it says (0 removes the item), and takes the difference from stock
-- or gives it back; false, with nothing changed, when the order is not PENDING (any more).
CREATE OR REPLACE FUNCTION :schema.overdue_edit(order_id bigint, product_id bigint, quantity bigint,
    whose pg_catalog.regclass DEFAULT :inventory::pg_catalog.regclass) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    before bigint;
    became bigint;
    more bigint;
    there bigint;
BEGIN
    -- The default follows the table when the schema is renamed; this body does not, and would act on another shop's orders.
    IF coalesce(whose OPERATOR(pg_catalog.<>) pg_catalog.to_regclass(:inventory), true) THEN
        RAISE EXCEPTION 'this function was made for the schema %: run `overdue migrate` for the schema it is in', :name
            USING ERRCODE = 'OVD03';
    END IF;
    PERFORM FROM :schema.orders
    WHERE orders.order_id OPERATOR(pg_catalog.=) overdue_edit.order_id AND status OPERATOR(pg_catalog.=) 'PENDING'
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT i.quantity INTO before FROM :schema.order_items AS i
    WHERE i.order_id OPERATOR(pg_catalog.=) overdue_edit.order_id
      AND i.product_id OPERATOR(pg_catalog.=) overdue_edit.product_id;
    IF overdue_edit.quantity OPERATOR(pg_catalog.=) 0 THEN
        DELETE FROM :schema.order_items AS i
        WHERE i.order_id OPERATOR(pg_catalog.=) overdue_edit.order_id
          AND i.product_id OPERATOR(pg_catalog.=) overdue_edit.product_id;
    ELSIF before IS NULL THEN
        INSERT INTO :schema.order_items (order_id, product_id, quantity)
        VALUES (overdue_edit.order_id, overdue_edit.product_id, overdue_edit.quantity);
    ELSE
        UPDATE :schema.order_items AS i SET quantity = overdue_edit.quantity
        WHERE i.order_id OPERATOR(pg_catalog.=) overdue_edit.order_id
          AND i.product_id OPERATOR(pg_catalog.=) overdue_edit.product_id;
    END IF;
    -- Stock follows what the item became.
    SELECT coalesce(pg_catalog.max(i.quantity), 0) INTO became FROM :schema.order_items AS i
    WHERE i.order_id OPERATOR(pg_catalog.=) overdue_edit.order_id
      AND i.product_id OPERATOR(pg_catalog.=) overdue_edit.product_id;
    IF became OPERATOR(pg_catalog.<>) overdue_edit.quantity THEN
        RAISE EXCEPTION 'a trigger made the quantity of product % in order % %, not %',
            overdue_edit.product_id, overdue_edit.order_id, became, overdue_edit.quantity USING ERRCODE = 'OVD02';
    END IF;
    more := overdue_edit.quantity OPERATOR(pg_catalog.-) coalesce(before, 0);
    IF more OPERATOR(pg_catalog.<>) 0 THEN
        UPDATE :schema.inventory SET stock = stock OPERATOR(pg_catalog.-) more
        WHERE inventory.product_id OPERATOR(pg_catalog.=) overdue_edit.product_id AND stock OPERATOR(pg_catalog.>=) more;
        IF NOT FOUND THEN
            SELECT stock INTO there FROM :schema.inventory
            WHERE inventory.product_id OPERATOR(pg_catalog.=) overdue_edit.product_id;
            RAISE EXCEPTION 'product % has % in stock, and % more were ordered', overdue_edit.product_id, there, more
                USING ERRCODE = 'check_violation', CONSTRAINT = 'inventory_stock_not_negative', TABLE = 'inventory';
        END IF;
    END IF;
    RETURN true;
END $body$;

REVOKE ALL ON FUNCTION :schema.overdue_orders_inserted(), :schema.overdue_orders_updated(), :schema.overdue_items_guarded(),
    :schema.overdue_give_back(bigint[]), :schema.overdue_place(bigint, interval, bigint[], bigint[], regclass),
    :schema.overdue_cancel(bigint, regclass), :schema.overdue_edit(bigint, bigint, bigint, regclass) FROM PUBLIC;
