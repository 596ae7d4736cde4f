# shellcheck shell=bash
# A private RabbitMQ node from the distribution's packages, with the project's configuration. Sourced by services.sh.

rabbitmq_home() { compgen -G '/usr/lib/rabbitmq/lib/rabbitmq_server-*' | sort -V | tail -n 1; }

rabbitmq_settings() { # MQ_VERSION, MQ_PASSWORD and the ports
  # shellcheck source=/dev/null
  [[ -f $STATE/rabbitmq/settings ]] && . "$STATE/rabbitmq/settings"
}

rabbitmq_amqp_url() { printf 'amqp://overdue:%s@127.0.0.1:%s/%%2f' "$MQ_PASSWORD" "$AMQP_PORT"; }
rabbitmq_management_url() { printf 'http://127.0.0.1:%s' "$MANAGEMENT_PORT"; }

rabbitmq_launch() {
  local folder=$STATE/rabbitmq home version erlang
  need_package '/usr/lib/rabbitmq/lib/rabbitmq_server-*' rabbitmq-server
  home=$(rabbitmq_home)
  version=${home##*-}
  erlang=$(dirname "$(readlink -f "$(command -v erl)")")
  step_down nobody

  ask_to_end epmd TERM # left over when the node was killed
  wait_ended epmd TERM 5

  # A node does not open another version's data (after a downgrade never, after an upgrade only along certain paths), and
  # a node whose first start was interrupted may lack its user.
  if ! rabbitmq_settings || [[ ! -e $folder/complete ]] || [[ ${MQ_VERSION:-} != "$version" ]]; then
    rm -rf "$folder"
    MQ_VERSION=$version MQ_PASSWORD=$(random_password)
    AMQP_PORT=0
  fi
  (umask 022 && mkdir -p "$folder"/{home,data,log,generated})
  if ((AMQP_PORT == 0)) || ! ports_free "$AMQP_PORT" "$MANAGEMENT_PORT" "$DIST_PORT" "$EPMD_PORT"; then
    # shellcheck disable=SC2046
    set -- $(free_ports 4)
    AMQP_PORT=$1 MANAGEMENT_PORT=$2 DIST_PORT=$3 EPMD_PORT=$4
  fi
  (
    umask 077
    printf '%s\n' "MQ_VERSION=$version" "MQ_PASSWORD=$MQ_PASSWORD" "AMQP_PORT=$AMQP_PORT" \
      "MANAGEMENT_PORT=$MANAGEMENT_PORT" "DIST_PORT=$DIST_PORT" "EPMD_PORT=$EPMD_PORT" >"$folder/settings"
    [[ -f $folder/home/.erlang.cookie ]] || random_password >"$folder/home/.erlang.cookie"
    rabbitmq_conf >"$folder/rabbitmq.conf"
  )
  chmod 400 "$folder/home/.erlang.cookie"
  cp "$ROOT/rabbitmq/advanced.config" "$ROOT/rabbitmq/enabled_plugins" "$folder/"
  give_to nobody "$folder"/{home,data,log,generated,rabbitmq.conf,advanced.config,enabled_plugins}

  local environment=(
    env -i "PATH=$erlang:$PATH" LANG=C.UTF-8 "HOME=$folder/home"
    # Private and on loopback: by default epmd and Erlang's distribution listen on all addresses.
    ERL_EPMD_ADDRESS=127.0.0.1 "ERL_EPMD_PORT=$EPMD_PORT" "RABBITMQ_DIST_PORT=$DIST_PORT"
    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}"
    "RABBITMQ_NODENAME=overdue-$CHECKOUT@localhost" RABBITMQ_CONF_ENV_FILE=/dev/null
    "RABBITMQ_CONFIG_FILE=$folder/rabbitmq.conf" "RABBITMQ_ADVANCED_CONFIG_FILE=$folder/advanced.config"
    "RABBITMQ_ENABLED_PLUGINS_FILE=$folder/enabled_plugins" "RABBITMQ_PLUGINS_DIR=$home/plugins"
    "RABBITMQ_MNESIA_BASE=$folder/data" "RABBITMQ_LOG_BASE=$folder/log"
    "RABBITMQ_GENERATED_CONFIG_DIR=$folder/generated" "RABBITMQ_SCHEMA_DIR=$folder/generated/schema"
    "RABBITMQ_PID_FILE=$folder/data/pid"
    RUNNING_UNDER_SYSTEMD=true # the script execs the Erlang VM, so that its pid is the broker's
  )
  # Erlang would start its own epmd, which outlives the node; an epmd that we start can be stopped.
  spawn epmd "$folder/log/epmd.log" "${environment[@]}" \
    "$(rabbitmq_epmd "$erlang")" -port "$EPMD_PORT" -address 127.0.0.1
  # The script in the server's own sbin: the packages' wrappers in /usr/sbin always change the user themselves.
  spawn rabbitmq "$folder/log/console.log" "${environment[@]}" "$home/sbin/rabbitmq-server"
}

rabbitmq_epmd() { # beside erl, or in its own release's folder
  local candidate
  for candidate in "$1/epmd" "$1"/../erts-*/bin/epmd "$(command -v epmd)"; do
    if [[ -x $candidate ]]; then
      printf '%s' "$candidate"
      return 0
    fi
  done
  die "no epmd beside $1/erl"
}

# The production configuration, then what only this private node needs; a later line wins.
rabbitmq_conf() {
  cat "$ROOT/rabbitmq/rabbitmq.conf"
  cat <<EOF_CONF

# --- added by dev/services ---
listeners.tcp.1 = 127.0.0.1:$AMQP_PORT
management.tcp.ip = 127.0.0.1
management.tcp.port = $MANAGEMENT_PORT
default_user = overdue
default_pass = $MQ_PASSWORD
default_user_tags.administrator = true
# A developer's disk is often nearly full; the production limit would block every publisher.
disk_free_limit.absolute = 100MB
# The log rolls over first after half to all of this; a suite writes 390 MB (measured, 3.10.8), and deletes its queues while it
# goes on. A rollover beside deleted queues has been followed by a node that refused every quorum queue until its restart (once
# in some twenty runs; compare rabbitmq-server#4512).
raft.wal_max_size_bytes = 1073741824
EOF_CONF
}

# What the node's log says about processes of its own that broke; clients' errors, of which tests make many, are not among it.
rabbitmq_complaints() { # since when
  grep -hA4 -E '\*\* (Generic server|State machine) |supervisor: \{local,|reached_max_restart|segment_writer: [0-9]+ failures' \
    "$STATE/rabbitmq/log/overdue-$CHECKOUT@localhost.log" 2>/dev/null |
    awk -v since="$1" '$0 >= since { found = 1; print substr($0, 1, 200) } END { exit !found }' | tail -n 20
}

rabbitmq_ready() {
  amqp_answers 127.0.0.1 "$AMQP_PORT" &&
    timeout 3 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0"' "$MANAGEMENT_PORT" 2>/dev/null
}
