# shellcheck shell=bash
# Starting and stopping PostgreSQL and RabbitMQ for this checkout. Sourced by dev/services and dev/with-services.
#
# Each of the two is, in this order: given (its address is in the environment), a container if a Docker engine runs, or a
# private instance from the distribution's packages. DEV_SERVICES=docker|packages chooses between the last two.

# shellcheck source=dev/lib/common.sh
. "${BASH_SOURCE[0]%/*}/common.sh"
# shellcheck source=dev/lib/given.sh
. "$ROOT/dev/lib/given.sh"
# shellcheck source=dev/lib/postgres.sh
. "$ROOT/dev/lib/postgres.sh"
# shellcheck source=dev/lib/rabbitmq.sh
. "$ROOT/dev/lib/rabbitmq.sh"
# shellcheck source=dev/lib/docker.sh
. "$ROOT/dev/lib/docker.sh"

PG_FROM='' MQ_FROM='' # given, running, container (a running one), or empty: not there

look_around() {
  PG_FROM='' MQ_FROM=''
  if [[ -n ${DATABASE_URL:-} ]]; then
    PG_FROM=given
  elif pid_of postgres >/dev/null && postgres_settings; then
    PG_FROM=running
  elif [[ -f $STATE/docker-postgres ]] && container_runs postgres && docker_postgres_settings; then
    PG_FROM=container
  fi
  if [[ -n ${AMQP_URL:-} ]]; then
    MQ_FROM=given
  elif pid_of rabbitmq >/dev/null && rabbitmq_settings; then
    MQ_FROM=running
  elif [[ -f $STATE/docker-rabbitmq ]] && container_runs rabbitmq && docker_rabbitmq_settings; then
    MQ_FROM=container
  fi
}

wants_docker() {
  case ${DEV_SERVICES:-} in
    '') docker_works ;;
    docker) docker_works || die "DEV_SERVICES=docker, but no Docker engine answers" ;;
    packages) return 1 ;;
    *) die "DEV_SERVICES is '$DEV_SERVICES': it must be docker or packages" ;;
  esac
}

# Starts what is neither given nor running, both in parallel; on return both answer.
start_services() {
  find_state
  [[ $STATE == "$ROOT"/* ]] || say "the services' user cannot work in $ROOT/target/dev; using $STATE"
  lock_state
  look_around
  # Nothing of ours runs: services that were to stay up are gone since a reboot.
  if [[ -z $PG_FROM$MQ_FROM ]]; then rm -f "$STATE/keep"; fi
  [[ $PG_FROM != given ]] || check_given_database
  [[ $MQ_FROM != given ]] || check_given_broker

  if [[ -z $PG_FROM || -z $MQ_FROM ]] && wants_docker; then
    [[ -n $PG_FROM ]] || { docker_postgres_launch && PG_FROM=container; }
    [[ -n $MQ_FROM ]] || { docker_rabbitmq_launch && MQ_FROM=container; }
  else
    [[ -n $PG_FROM ]] || { postgres_launch && PG_FROM=running; }
    [[ -n $MQ_FROM ]] || { rabbitmq_launch && MQ_FROM=running; }
  fi

  case $PG_FROM in
    given) say "PostgreSQL as DATABASE_URL says" ;;
    running) wait_ready PostgreSQL 60 "cat $STATE/postgres/log" "pid_of_ postgres" postgres_ready ;;
    container)
      wait_ready PostgreSQL 300 "docker logs $(container postgres)" "container_runs postgres" docker_postgres_ready
      ;;
  esac
  [[ $PG_FROM == given ]] || say "PostgreSQL $PG_VERSION on 127.0.0.1:$PG_PORT ($(where "$PG_FROM" postgres))"
  case $MQ_FROM in
    given) say "RabbitMQ as AMQP_URL says, management API at $OVERDUE_MANAGEMENT_URL" ;;
    running)
      wait_ready RabbitMQ 120 rabbitmq_logs "pid_of_ rabbitmq" rabbitmq_ready
      touch "$STATE/rabbitmq/complete"
      ;;
    container) wait_ready RabbitMQ 300 "docker logs $(container rabbitmq)" "container_runs rabbitmq" rabbitmq_ready ;;
  esac
  [[ $MQ_FROM == given ]] ||
    say "RabbitMQ $MQ_VERSION on 127.0.0.1:$AMQP_PORT, management on $MANAGEMENT_PORT ($(where "$MQ_FROM" rabbitmq))"
  unlock_state
}

pid_of_() { pid_of "$1" >/dev/null; }
rabbitmq_logs() { cat "$STATE/rabbitmq/log/"*.log; }
where() {
  if [[ $1 == container ]]; then
    printf 'container %s' "$(container "$2")"
  else
    printf 'private, %s' "${STATE#"$ROOT/"}/$2"
  fi
}

# Sets the three variables; fails if a service is missing.
set_variables() {
  [[ -n $PG_FROM && -n $MQ_FROM ]] || return 1
  if [[ $PG_FROM != given ]]; then DATABASE_URL=$(postgres_url); fi
  if [[ $MQ_FROM != given ]]; then
    AMQP_URL=$(rabbitmq_amqp_url)
    OVERDUE_MANAGEMENT_URL=$(rabbitmq_management_url)
  else
    check_given_broker
  fi
  export DATABASE_URL AMQP_URL OVERDUE_MANAGEMENT_URL
}

# stop_services --wipe|'': stops only what this checkout's scripts started, whatever addresses the environment has.
stop_services() {
  find_state
  lock_state
  # INT is PostgreSQL's fast shutdown; TERM would wait for every client to leave.
  ask_to_end postgres INT
  ask_to_end rabbitmq TERM
  wait_ended postgres INT 30
  wait_ended rabbitmq TERM 30
  ask_to_end epmd TERM # last, because the node deregisters with it
  wait_ended epmd TERM 5
  docker_stop "$1"
  rm -f "$STATE/keep"
  if [[ $1 == --wipe ]]; then rm -rf "$STATE/postgres" "$STATE/rabbitmq"; fi
  unlock_state
}
