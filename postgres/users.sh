#!/bin/sh
# The two users of docker-compose.yml, in the roles of roles.sql: one migrates, the other runs pods. The image runs this when the
# database is new. The user that migrates acts as overdue_owner, so that the tables belong to that role.
set -eu
psql -qX -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -v owner="$OWNER_PASSWORD" -v pod="$POD_PASSWORD" <<'SQL'
CREATE ROLE overdue_migrating LOGIN PASSWORD :'owner' IN ROLE overdue_owner;
ALTER ROLE overdue_migrating SET role = overdue_owner;
CREATE ROLE overdue_running LOGIN PASSWORD :'pod' IN ROLE overdue_pod;
SQL
