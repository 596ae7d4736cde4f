-- The roles of a shop with Overdue. A superuser (or a role with CREATEROLE) runs this once for each database server.
--
-- overdue_owner   owns the tables and runs `overdue migrate`; nothing else needs it
-- overdue_pod     runs `overdue run`: closes orders, publishes events
-- overdue_shop    places, pays, cancels and edits orders, by plain SQL and by overdue_place, overdue_cancel, overdue_edit
-- overdue_reader  reads, and changes nothing
--
-- They are groups and cannot log in. Make a user for each program and put it into one of them:
--   CREATE ROLE checkout LOGIN PASSWORD '…' IN ROLE overdue_shop;
-- None of them is a superuser, may create databases or roles, or bypasses row security.
--
-- For a shop in another schema than public, or for several shops in a database, give each its own four roles and write
-- its schema here and in grants.sql.

CREATE ROLE overdue_owner NOLOGIN;
CREATE ROLE overdue_pod NOLOGIN;
CREATE ROLE overdue_shop NOLOGIN;
CREATE ROLE overdue_reader NOLOGIN;

-- PostgreSQL 14 and older let every role create tables and functions here, and so put its own in the place of others'.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO overdue_owner;
GRANT USAGE ON SCHEMA public TO overdue_pod, overdue_shop, overdue_reader;
