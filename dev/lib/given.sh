# shellcheck shell=bash
# Services that the caller already has: checks their addresses and finds the broker's management API.
# Sourced by services.sh.

# parse_url URL DEFAULT-PORT: sets URL_USER, URL_PASSWORD, URL_HOST and URL_PORT.
parse_url() {
  local pattern='^[a-z]+://(([^:@/]*)(:([^@/]*))?@)?(\[[^]]+\]|[^:/?,]+)?(:([0-9]+))?([/?,].*)?$'
  [[ $1 =~ $pattern ]] || return 1
  URL_USER=$(percent_decoded "${BASH_REMATCH[2]}")
  URL_PASSWORD=$(percent_decoded "${BASH_REMATCH[4]}")
  URL_HOST=${BASH_REMATCH[5]:-127.0.0.1}
  URL_PORT=${BASH_REMATCH[7]:-$2}
}
percent_decoded() { printf '%b' "${1//%/\\x}"; }

check_given_database() {
  parse_url "$DATABASE_URL" 5432 || die "DATABASE_URL is not a URL like postgres://user:password@host:port/name"
  # A socket folder (?host=/run/…) or several hosts are left to the client.
  [[ $DATABASE_URL != *[?\&]host=* && $DATABASE_URL != *,* ]] || return 0
  timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "${URL_HOST//[][]/}" "$URL_PORT" 2>/dev/null ||
    die "DATABASE_URL is set, but nothing answers at $URL_HOST:$URL_PORT; unset it to have a private PostgreSQL started"
}

# Sets OVERDUE_MANAGEMENT_URL unless the caller did. AMQP_URL may name several nodes, separated by commas; one that is
# down is skipped.
check_given_broker() {
  local url urls default answered=
  [[ -z ${OVERDUE_MANAGEMENT_URL:-} ]] || return 0
  need_package curl curl ca-certificates
  IFS=, read -ra urls <<<"$AMQP_URL"
  for url in "${urls[@]}"; do
    default=5672
    [[ $url != amqps:* ]] || default=5671
    parse_url "$url" "$default" || die "AMQP_URL is not a URL like amqp://user:password@host:port/vhost"
    if [[ $url == amqps:* ]] || amqp_answers "${URL_HOST//[][]/}" "$URL_PORT"; then
      answered=yes
      if find_management; then return 0; fi
    fi
  done
  [[ -n $answered ]] ||
    die "AMQP_URL is set, but nothing answers at $URL_HOST:$URL_PORT; unset it to have a private RabbitMQ started"
  die "AMQP_URL is set, but at $URL_HOST no management API was found that takes its user and password and listens on" \
    "port $URL_PORT. The tests need one, to make a vhost each: enable the plugin rabbitmq_management and give the user" \
    "the tag administrator, or say where it is with OVERDUE_MANAGEMENT_URL (such as http://$URL_HOST:15672), or unset" \
    "AMQP_URL to have a private RabbitMQ started"
}

find_management() {
  local ports port
  ports="$((URL_PORT + 10000)) 15672"
  case $URL_HOST in
    127.* | localhost | '[::1]') ports+=" $(listening_ports | tr '\n' ' ')" ;;
  esac
  for port in $ports; do
    if is_management_of_our_broker "http://$URL_HOST:$port"; then
      OVERDUE_MANAGEMENT_URL=http://$URL_HOST:$port
      return 0
    fi
  done
  return 1
}

# Several brokers may run at once, so the API itself has to report that its broker listens on the port of AMQP_URL. The
# credentials are sent only to a server that identifies itself as RabbitMQ, and never put on a command line.
is_management_of_our_broker() {
  local url=$1 user=${URL_USER:-guest} password=${URL_PASSWORD:-guest} credentials
  grep -qi '^www-authenticate:.*RabbitMQ' < <(curl -s -m 1 -D - -o /dev/null "$url/api/overview") || return 1
  credentials="$user:$password"
  credentials=${credentials//\\/\\\\}
  grep -q '"protocol":"amqp.*"port":'"$URL_PORT," < <(
    curl -s -m 10 -K - "$url/api/overview" <<<"user = \"${credentials//\"/\\\"}\"" 2>/dev/null | tr '{' '\n'
  )
}
