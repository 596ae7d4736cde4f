-- The triggers, applied by `overdue migrate` after functions.sql where they are missing, differ or are switched off: each of
-- these statements waits for the table's writers.

CREATE OR REPLACE TRIGGER orders_inserted AFTER INSERT ON :schema.orders
    REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION :schema.overdue_orders_inserted();

CREATE OR REPLACE TRIGGER orders_updated AFTER UPDATE ON :schema.orders
    REFERENCING OLD TABLE AS before_update NEW TABLE AS after_update
    FOR EACH STATEMENT EXECUTE FUNCTION :schema.overdue_orders_updated();

CREATE OR REPLACE TRIGGER order_items_guarded BEFORE INSERT OR UPDATE OR DELETE ON :schema.order_items
    FOR EACH ROW EXECUTE FUNCTION :schema.overdue_items_guarded();

ALTER TABLE :schema.orders ENABLE TRIGGER orders_inserted, ENABLE TRIGGER orders_updated;
ALTER TABLE :schema.order_items ENABLE TRIGGER order_items_guarded;
