-- Batches of a burst share products. What a batch does with them comes last and is short, so that batches are in each
-- other's way as little as can be.
DO $make$
DECLARE
    here text := quote_ident(current_schema());
BEGIN
    -- Gives back the items of orders that the caller has just locked; returns of how many products. VOLATILE on purpose: its
    -- statements then see what was committed until now, where the calling statement sees only what was committed when it began.
    -- An item that was added in between would else be missed, and its stock lost; and a product that another batch has changed
    -- in between would have to be looked up again.
    EXECUTE replace($$
        CREATE FUNCTION :schema.overdue_give_back(orders bigint[]) RETURNS bigint
        LANGUAGE plpgsql VOLATILE STRICT AS $body$
        DECLARE
            products bigint[];
            quantities bigint[];
            given_back bigint;
        BEGIN
            SELECT array_agg(sums.product_id), array_agg(sums.quantity) INTO products, quantities
            FROM (SELECT i.product_id, sum(i.quantity)::bigint AS quantity
                  FROM :schema.order_items AS i WHERE i.order_id = ANY (orders)
                  GROUP BY i.product_id) AS sums;
            -- Large batches queue here, and not for each product anew. Small ones may have no product in common, and would
            -- wait for each other's commits. The key is "OVER" in ASCII, as for the leaders' locks, and the table.
            IF cardinality(orders) >= 100 THEN
                PERFORM pg_advisory_xact_lock(1331053906, ':schema.inventory'::regclass::oid::int4);
            END IF;
            WITH locked AS MATERIALIZED (
                -- In product order, so that two batches with the same products wait for each other and never deadlock. NO KEY:
                -- an order that is being placed holds a key-share lock on its products, which must neither wait for us nor
                -- we for it.
                SELECT inventory.product_id, items.quantity
                FROM :schema.inventory JOIN unnest(products, quantities) AS items (product_id, quantity)
                     USING (product_id)
                ORDER BY inventory.product_id
                FOR NO KEY UPDATE OF inventory
            )
            UPDATE :schema.inventory
            SET stock = stock + locked.quantity
            FROM locked
            WHERE inventory.product_id = locked.product_id;
            GET DIAGNOSTICS given_back = ROW_COUNT;
            RETURN given_back;
        END $body$
    $$, ':schema', here);

    EXECUTE replace('DROP FUNCTION :schema.overdue_items_of(bigint[])', ':schema', here);
END $make$;
