# shellcheck shell=bash
# A private PostgreSQL from the distribution's packages. Sourced by services.sh.

postgres_bin() { # the newest of the installed versions
  local newest
  newest=$(compgen -G '/usr/lib/postgresql/*/bin/postgres' | sort -V | tail -n 1) || true
  if [[ -n $newest ]]; then dirname "$newest"; else dirname "$(command -v postgres)"; fi
}

postgres_settings() { # PG_VERSION, PG_PORT and PG_PASSWORD, kept beside the data they belong to
  # shellcheck source=/dev/null
  [[ -f $STATE/postgres/settings ]] && . "$STATE/postgres/settings"
}

postgres_url() { printf 'postgres://overdue:%s@127.0.0.1:%s/overdue' "$PG_PASSWORD" "$PG_PORT"; }

postgres_launch() {
  local folder=$STATE/postgres bin version user=nobody
  if ! command -v postgres >/dev/null; then
    need_package '/usr/lib/postgresql/*/bin/postgres' postgresql
  fi
  bin=$(postgres_bin)
  [[ $("$bin/postgres" --version) =~ [0-9]+ ]] && version=${BASH_REMATCH[0]}
  if id postgres >/dev/null 2>&1; then user=postgres; fi
  step_down "$user"

  # A data folder of another major version cannot be opened; without its settings, nothing can log in.
  if ! postgres_settings || [[ ${PG_VERSION:-} != "$version" ]]; then
    rm -rf "$folder"
    (umask 022 && mkdir -p "$folder/new")
    PG_VERSION=$version PG_PORT=0
    PG_PASSWORD=$(random_password)
    (umask 077 && printf '%s' "$PG_PASSWORD" >"$folder/password")
    give_to "$user" "$folder/new" "$folder/password"
    # --no-sync skips flushing files that would simply be created again after a crash now. Not fsync=off: tests and
    # measurements need a database that is durable.
    "${STEP_DOWN[@]}" env -i PATH="$PATH" LC_ALL=C.UTF-8 "$bin/initdb" --no-sync -A scram-sha-256 -U overdue \
      --pwfile="$folder/password" -E UTF8 -D "$folder/new" >"$folder/log" 2>&1 ||
      { tail -n 25 "$folder/log" >&2 && die "initdb failed; its output is above"; }
    rm -f "$folder/password"
    mv "$folder/new" "$folder/data" # only now: an interrupted start leaves no half-made data folder
  fi
  if ((PG_PORT == 0)) || ! ports_free "$PG_PORT"; then PG_PORT=$(free_ports 1); fi
  (umask 077 && printf '%s\n' "PG_VERSION=$version" "PG_PORT=$PG_PORT" "PG_PASSWORD=$PG_PASSWORD" >"$folder/settings")
  give_to "$user" "$folder/data"
  postgres_forget_killed "$folder/data"

  # 300 connections: every test has a pool of its own. max_wal_size: fewer checkpoints inside a measured burst.
  spawn postgres "$folder/log" env -i PATH="$PATH" LC_ALL=C.UTF-8 "$bin/postgres" -D "$folder/data" \
    -c listen_addresses=127.0.0.1 -c "port=$PG_PORT" -c unix_socket_directories= \
    -c shared_buffers=256MB -c max_connections=300 -c max_wal_size=2GB
}

# After a kill -9 the lock file stays, and its pid may belong to a zombie or to another process, so that PostgreSQL would
# refuse to start. It is removed when no process works in the data folder any more; the server's children end soon after it.
postgres_forget_killed() {
  local data=$1 deadline=$((SECONDS + 20))
  [[ -e $data/postmaster.pid ]] || return 0
  while grep -qxF "$data" < <(readlink /proc/[0-9]*/cwd 2>/dev/null); do
    ((SECONDS < deadline)) || die "another PostgreSQL still runs in $data"
    sleep 0.1
  done
  rm -f "$data/postmaster.pid"
}

postgres_ready() {
  # initdb does not create the database named like the user; creating it proves that logins work.
  "$(postgres_bin)/pg_isready" -q -h 127.0.0.1 -p "$PG_PORT" &&
    PGPASSWORD=$PG_PASSWORD "$(postgres_bin)/psql" -qX -h 127.0.0.1 -p "$PG_PORT" -U overdue -d postgres \
      -v ON_ERROR_STOP=1 >/dev/null 2>&1 <<'SQL'
SELECT 'CREATE DATABASE overdue' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'overdue') \gexec
SQL
}
