# shellcheck shell=bash
# The same two services as Docker containers, where an engine runs. Sourced by services.sh.
# A container is stopped, not removed, between starts: it keeps its data, its ports and its version.

POSTGRES_IMAGE=postgres:17
RABBITMQ_IMAGE=rabbitmq:4-management

docker_works() { command -v docker >/dev/null && timeout 10 docker info >/dev/null 2>&1; }
container() { printf 'overdue-%s-%s' "$CHECKOUT" "$1"; }
container_runs() { [[ $(docker inspect -f '{{.State.Running}}' "$(container "$1")" 2>/dev/null) == true ]]; }

# reuse_container NAME IMAGE: starts an existing container of the same image; fails if a new one is needed.
reuse_container() {
  local name
  name=$(container "$1")
  if [[ $(docker inspect -f '{{.Config.Image}}' "$name" 2>/dev/null) == "$2" && -f $STATE/docker-$1 ]] &&
    docker start "$name" >/dev/null 2>&1; then
    return 0
  fi
  docker rm -f -v "$name" >/dev/null 2>&1 || true
  return 1
}

docker_run() { # NAME ARGUMENT...
  local name=$1
  shift
  docker run -d --name "$(container "$name")" --label "overdue.checkout=$ROOT" "$@" >/dev/null ||
    die "docker could not start $(container "$name")"
}

docker_postgres_settings() {
  PG_VERSION=${POSTGRES_IMAGE#*:}
  # shellcheck source=/dev/null
  [[ -f $STATE/docker-postgres ]] && . "$STATE/docker-postgres"
}

docker_postgres_launch() {
  if reuse_container postgres "$POSTGRES_IMAGE"; then
    docker_postgres_settings
    return 0
  fi
  PG_PORT=$(free_ports 1) PG_PASSWORD=$(random_password)
  (umask 077 && printf 'PG_PORT=%s\nPG_PASSWORD=%s\n' "$PG_PORT" "$PG_PASSWORD" >"$STATE/docker-postgres")
  docker_postgres_settings
  POSTGRES_PASSWORD=$PG_PASSWORD docker_run postgres -p "127.0.0.1:$PG_PORT:5432" \
    -e POSTGRES_USER=overdue -e POSTGRES_DB=overdue -e POSTGRES_PASSWORD "$POSTGRES_IMAGE" \
    -c shared_buffers=256MB -c max_connections=300 -c max_wal_size=2GB
}

# Over TCP: while the image sets the database up, its server listens on the socket alone.
docker_postgres_ready() { docker exec "$(container postgres)" pg_isready -q -h 127.0.0.1 -U overdue >/dev/null 2>&1; }

docker_rabbitmq_settings() {
  MQ_VERSION=${RABBITMQ_IMAGE#*:}
  # shellcheck source=/dev/null
  [[ -f $STATE/docker-rabbitmq ]] && . "$STATE/docker-rabbitmq"
}

docker_rabbitmq_launch() {
  if reuse_container rabbitmq "$RABBITMQ_IMAGE"; then
    docker_rabbitmq_settings
    return 0
  fi
  # shellcheck disable=SC2046
  set -- $(free_ports 2)
  AMQP_PORT=$1 MANAGEMENT_PORT=$2 MQ_PASSWORD=$(random_password)
  (umask 077 && printf '%s\n' "AMQP_PORT=$AMQP_PORT" "MANAGEMENT_PORT=$MANAGEMENT_PORT" "MQ_PASSWORD=$MQ_PASSWORD" \
    >"$STATE/docker-rabbitmq")
  docker_rabbitmq_settings
  # The host name is part of the node's name, which is part of its data folder's name.
  RABBITMQ_DEFAULT_PASS=$MQ_PASSWORD docker_run rabbitmq --hostname overdue \
    -p "127.0.0.1:$AMQP_PORT:5672" -p "127.0.0.1:$MANAGEMENT_PORT:15672" \
    -e RABBITMQ_DEFAULT_USER=overdue -e RABBITMQ_DEFAULT_PASS \
    -v "$ROOT/rabbitmq/rabbitmq.conf:/etc/rabbitmq/conf.d/50-overdue.conf:ro" \
    -v "$ROOT/rabbitmq/advanced.config:/etc/rabbitmq/advanced.config:ro" \
    -v "$ROOT/rabbitmq/enabled_plugins:/etc/rabbitmq/enabled_plugins:ro" "$RABBITMQ_IMAGE"
}

docker_stop() { # --wipe or ''
  local name
  for name in postgres rabbitmq; do
    [[ -f $STATE/docker-$name ]] || continue
    if [[ $1 == --wipe ]]; then
      docker rm -f -v "$(container "$name")" >/dev/null 2>&1 || true
      rm -f "$STATE/docker-$name"
    elif container_runs "$name"; then
      docker stop -t 30 "$(container "$name")" >/dev/null
    fi
  done
}
