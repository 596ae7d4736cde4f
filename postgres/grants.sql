-- What each role of roles.sql may do with the tables and functions. The owner runs this after the first `overdue migrate`
-- and after each upgrade. Nothing is granted to PUBLIC, and no role needs more. Overdue's trigger functions record wakes and
-- events with the owner's rights, so a shop needs no rights on the outbox, and must not have any.

-- Pods. `overdue run` refuses to start without one of these, and names it.
GRANT SELECT, UPDATE ON orders, inventory, overdue_database TO overdue_pod;
GRANT SELECT ON order_items, overdue_migrations TO overdue_pod;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox, refused_events, closing_failures, lane_probes, leases, pods TO overdue_pod;
-- The last id tells the relay where to begin when it finds nothing, past any number of deleted rows.
GRANT SELECT ON SEQUENCE outbox_id_seq TO overdue_pod;
GRANT EXECUTE ON FUNCTION overdue_give_back(bigint[]) TO overdue_pod;

-- Shops. DELETE is for cleaning up; leave it out if nothing is ever deleted.
GRANT SELECT, INSERT, UPDATE, DELETE ON orders, order_items, inventory TO overdue_shop;
GRANT EXECUTE ON FUNCTION overdue_place(bigint, interval, bigint[], bigint[], regclass), overdue_cancel(bigint, regclass),
    overdue_edit(bigint, bigint, bigint, regclass), overdue_give_back(bigint[]) TO overdue_shop;

-- Readers.
GRANT SELECT ON orders, order_items, inventory, outbox, refused_events, closing_failures, lane_probes, leases, pods,
    overdue_database, overdue_migrations TO overdue_reader;
